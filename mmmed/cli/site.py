"""``mmmed site ...``: the hospital engineer's commands. Everything they read and write stays at the site."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from mmmed.cli import site_deploy, site_withdraw
from mmmed.cli.options import read_config
from mmmed.extras import require
from simulations.working import working

app = typer.Typer(
    help="At a hospital: get data in, de-identify and check it, take part in a federation.",
    no_args_is_help=True,
)
app.add_typer(site_deploy.app)
app.add_typer(site_withdraw.app)

Sources = Annotated[
    list[Path], typer.Argument(help="Folders, archives, DICOMDIR, tables, reports: whatever there is.")
]
KeyFile = Annotated[
    Path, typer.Option("--key", help="The site's secret for pseudonyms; made at first use. Keep a backup.")
]

Dataset = Annotated[Path, typer.Argument(help="Data set folder.")]
DatasetOrSite = Annotated[
    Path,
    typer.Argument(
        metavar="DATASET", help="Data set folder, or a site's: its columns, rows and opt-out list."
    ),
]


@app.command()
def fetch(
    pacs: Annotated[
        str,
        typer.Argument(help="dicom://AET@host:port, dicoms:// over TLS, or https://host/path of DICOMweb."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the objects, to be ingested and then deleted.")],
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day of studies.")],
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day.", show_default="today")
    ] = None,
    modality: Annotated[list[str] | None, typer.Option(help="Only such series, e.g. CT (repeat).")] = None,
    description: Annotated[str, typer.Option(help="Only studies described so, e.g. '*thorax*'.")] = "",
    aet: Annotated[str, typer.Option(help="DICOM: our AE title, which the PACS must know.")] = "MMMED",
    move: Annotated[
        str, typer.Option(help="DICOM: receive by C-MOVE at this ADDRESS:PORT.", show_default="C-GET")
    ] = "",
    credentials: Annotated[
        Path | None, typer.Option(help="DICOMweb: file with user:password or Bearer TOKEN.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="TLS: PEM file of trusted authorities.")] = None,
    cert: Annotated[Path | None, typer.Option(help="TLS: PEM file with our certificate and key.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that the PACS may be silent.")] = 120,
) -> None:
    """Fetch studies from a PACS into a folder, for ingest. Killed half-way, it goes on when repeated.

    PACS is dicom://AET@host:port, dicoms://AET@host:port (TLS) or https://host/path (DICOMweb). Exit 1: not all came.
    """
    require("ingest", "mmmed site fetch")
    from mmmed.pacs import Access, Query, open_archive
    from mmmed.pacs import fetch as run

    query = Query(first.date(), (last or datetime.now()).date(), tuple(modality or ()), description)
    access = Access(aet, move, credentials, ca, cert, timeout)
    with closing(open_archive(pacs, access)) as archive, _progress("studies") as progress:
        report = run(archive, query, out, progress=progress)
    print(report.summary())
    if report.incomplete:
        sys.exit(1)


@app.command()
def ingest(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Data set folder to write or to go on with.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", help="TOML file that states site, columns, units and labels.")
    ],
    key: KeyFile = Path("site-data.key"),
    files: Annotated[
        Path | None,
        typer.Option(help="Also list every file and why it was left out; it names files, keep it here."),
    ] = None,
) -> None:
    """Read, check, de-identify and pair everything into one data set. Killed half-way, it goes on when repeated."""
    require("ingest", "mmmed site ingest")
    from mmmed.deidentify.keys import SiteKey
    from mmmed.ingest import ingest as run
    from mmmed.ingest import load_options

    options = load_options(config)
    with _progress("files") as progress:
        secret = SiteKey.load_or_create(key)
        report = run(sources, out, key=secret, options=options, files=files, progress=progress)
    print(report.summary())


@app.command()
def deidentify(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder for the copies.")],
    key: KeyFile = Path("site-data.key"),
) -> None:
    """Write de-identified DICOM copies: headers, and text burned into pixels."""
    require("ingest", "mmmed site deidentify")
    from collections import Counter

    from mmmed.deidentify.keys import SiteKey
    from mmmed.ingest import deidentify as run

    with _progress("images") as progress:
        report = run(sources, out, key=SiteKey.load_or_create(key), progress=progress)
    print(f"{report.written} copies in {out}, text masked in {report.masked}")
    for reason, count in Counter(one.reason for one in report.skipped).most_common():
        print(f"  left out {count:5}  {reason}")
    if report.page is not None:
        print(
            f"look at what was masked; delete copies that are not clear, then these pages:\n  {report.page}"
        )


@app.command()
def check(
    dataset: DatasetOrSite,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML file of a run.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a page with pictures; keep it here.")] = None,
) -> None:
    """Say whether a data set can be trained on, and what a model would learn that it should not. Exit 1 if not."""
    from client.opt_outs import list_in_force
    from client.site_folder import SiteFolder
    from mmmed.check import check as run
    from mmmed.check import write_page

    resolved, site = read_config(config, assignments).config, SiteFolder(dataset)
    if site.exists():
        opt_outs = list_in_force(site)
        with working("reading the data set"):
            result = run(site.dataset, site.data_config(resolved).data, resolved.task, without=opt_outs)
        if len(opt_outs):
            print(f"an opt-out list of {len(opt_outs)} is in force: without these patients")
    else:
        with working("reading the data set"):
            result = run(dataset, resolved.data, resolved.task)
    print(result.summary())
    if page is not None:
        write_page(result, page)
        print(f"page: {page}")
    if not result.trainable:
        sys.exit(1)


@app.command()
def images(dataset: Dataset) -> None:
    """Say how many images held for review wait for approval, and where to look at them."""
    require("ingest", "mmmed site images")
    from mmmed.ingest import put_in_order

    print(put_in_order(dataset).summary())


@app.command("approve-images")
def approve_images(
    dataset: Dataset,
    items: Annotated[
        list[str] | None, typer.Argument(help="Names of images to approve, as the review pages show them.")
    ] = None,
    reject: Annotated[
        list[str] | None, typer.Option(help="Name of an image that stays out for ever (repeat).")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Approve all that wait, but for those rejected.")
    ] = False,
    by: Annotated[str, typer.Option(help="Who has looked at them.", show_default="the user")] = "",
) -> None:
    """Record which images held for review a human has approved; only these become part of the data set."""
    require("ingest", "mmmed site approve-images")
    from mmmed.ingest import decide

    if not (items or reject or every):
        raise typer.BadParameter(
            "name images to approve, --reject some, or say --all after you have seen every page"
        )
    print(decide(dataset, items or (), reject or (), rest=every, by=by).summary())


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
