"""``mmmed personalise``: a federated model, trained on with one site's own patients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli.options import DataFolder


def personalise(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    out: Annotated[Path, typer.Option(help="New folder for the site's own model.", show_default=False)],
    data: DataFolder = None,
    site: Annotated[
        str, typer.Option(help="Whose patients, of a data set of several sites.", show_default="the only one")
    ] = "",
    passes: Annotated[int, typer.Option(min=1, max=1000, help="Over its patients, at most.")] = 20,
    learning_rate: Annotated[float, typer.Option(min=1e-8, max=10, help="Of a step, Adam's.")] = 1e-3,
) -> None:
    """Train a model on with the patients of one site, without privacy: what comes out must not leave the site."""
    from simulations.working import working

    with working("training on with the site's patients"):
        from client.personal import personalise as trained_on
        from mmmed.data.loader import open_site_data
        from mmmed.data.manifest import read_manifest
        from mmmed.data.source import locate
        from mmmed.errors import DataError
        from mmmed.models import load_model, save_model
        from mmmed.paths import feature_cache, image_cache

        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out}: is there already; name a new folder")
        model, config = load_model(run)
        manifest = read_manifest(locate(str(data or config.data.source)), config.data, config.task)
        if (not site and len(manifest.sites) > 1) or (site and site not in manifest.sites):
            raise DataError(f"--site must name one of {', '.join(manifest.sites)}. Found {site or 'none'!r}")
        opened = open_site_data(manifest.of_site(site or manifest.sites[0]), config, image_cache())
        found = trained_on(model, config, opened, feature_cache(), passes=passes, learning_rate=learning_rate)
        save_model(out, found.model, found.config)
    title = config.task.target().score.title
    print(
        f"{title} on the site's held-out patients: {found.before} before, {found.after} after {found.passes} passes"
    )
    if found.passes == 0:
        print("No pass was better on the patients by whom that was chosen: it is the model as it came.")
    print(
        f"{out}: trained on these patients without differential privacy. It may hold what their records say: it stays "
        "at the site, and costs no budget."
    )
