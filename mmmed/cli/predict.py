"""``mmmed predict``: ask a trained model about one study, or about all of a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import DataFolder, JsonFile

if TYPE_CHECKING:
    from rich.table import Table

    from mmmed.api import Model, Prediction
    from mmmed.inference import Detail

_MOST = 5  # words or columns that are told


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or a model folder.")],
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE...", help="What is known of the study.", show_default=False),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also say what each modality did to it, and within each its parts."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="The explanation as one HTML page, which holds the patient's data.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Images and volumes, plain and with what each place did, as PNG.")
    ] = None,
    of: Annotated[
        str, typer.Option(help="Which of the numbers is explained, such as a class; by default the answer.")
    ] = "",
    json_file: JsonFile = None,
    data: DataFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="With --data: the predictions, CSV or Parquet by the name's end.")
    ] = None,
) -> None:
    """Predict one study from its files and values, or every study of --data. Nothing of it is kept.

    NAME=VALUE says what is known, any part of what the model reads: image=film.dcm, age=63,
    text=@note.txt or the text itself.
    """
    from simulations.working import working

    with working("reading the model"):
        from mmmed.api import load_model
        from mmmed.errors import DataError
        from mmmed.files import replacing

        model = load_model(run)
    if data is not None:
        if given or explain or json_file or page or picture or of or out is None:
            raise typer.BadParameter("--data goes with --out FILE, and with nothing of a single study")
        _predict_all(model, data, out)
        return
    if out is not None:
        raise typer.BadParameter("--out goes with --data; --json FILE has the prediction of one study")
    if not given:
        raise DataError(
            f"say what is known of the study, as NAME=VALUE. The model reads: {', '.join(model.inputs)}"
        )
    values = dict(map(_pair, given))
    if len(values) < len(given):
        raise DataError("a name is given twice")
    explained = explain or page is not None or picture is not None or bool(of)
    with working("asking the model"):
        found = model.explain(**values) if explained else model.predict(**values)
    number = model.number(found, of) if explained else 0
    files: dict[Path, bytes] = {}
    if json_file is not None:
        told = {"model": str(run), **found.to_dict()}
        files[json_file] = (json.dumps(told, indent=2) + "\n").encode()
    if page is not None:
        files[page] = model.page(found, of).encode()
    if picture is not None:
        files[picture] = model.picture(found, of)
    _show(found, number)
    for file, content in files.items():
        with replacing(file) as partial:
            partial.write_bytes(content)


def _pair(text: str) -> tuple[str, str | Path]:
    """``name=value`` or ``name=@file``."""
    from mmmed.errors import DataError

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise DataError(f"expected NAME=VALUE, such as image=film.dcm. Found {text!r}")
    return name, Path(value[1:]) if value.startswith("@") else value


def _predict_all(model: Model, data: str, out: Path) -> None:
    import sys
    import warnings

    from mmmed.api import predict as predict_table
    from mmmed.errors import DataError
    from mmmed.files import replacing
    from mmmed.text import escaped
    from simulations.working import working

    kinds = {".csv": "to_csv", ".parquet": "to_parquet"}
    if out.suffix.lower() not in kinds:
        raise DataError(f"--out {out}: expected a name that ends in .csv or .parquet")
    with warnings.catch_warnings(record=True) as problems:
        warnings.simplefilter("always", UserWarning)
        with working("predicting every study"):
            table = predict_table(model, data)
    for problem in problems:
        sys.stderr.write(f"note: {escaped(str(problem.message))}\n")  # it may quote a cell
    with replacing(out) as partial:
        getattr(table, kinds[out.suffix.lower()])(partial, index=False)
    print(f"{len(table)} studies: {out}")


def _show(found: Prediction, number: int = 0) -> None:
    from rich.console import Console
    from rich.markup import escape

    from mmmed.text import escaped, shown

    console = Console(highlight=False)
    texts = {name: value for name, value in found.values.items() if isinstance(value, str)}
    for name, text in texts.items():
        console.print(f"{escape(shown(name))}: {escape(escaped(text))}", soft_wrap=True)
    if not texts:
        console.print(_table(found))
    for modality, detail in found.details.items():
        console.print(f"{modality}: {escape(_strongest(detail, number))}")
    missing = f"; not given: {', '.join(found.missing)}" if found.missing else ""
    console.print(f"read: {', '.join(found.read)}{missing}.")
    if found.doubt.possible:
        possible = escape(shown(", ".join(found.doubt.possible)))
        console.print(
            f"possible, each for {found.doubt.level:.0%} of the patients of whom it is true: {possible}"
        )
    console.print(escape(found.doubt.told))


def _table(found: Prediction) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from mmmed.text import shown

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in found.values:  # which who configured the run has chosen
        table.add_column(escape(shown(name)), justify="right")
    table.add_row("prediction", *(f"{value:.3f}" for value in found.values.values()))
    if found.doubt.calibrated:
        table.add_row("calibrated", *(f"{value:.3f}" for value in found.doubt.calibrated.values()))
    if found.doubt.intervals:
        ends = found.doubt.intervals.values()
        table.add_row("  95 % interval", *(f"{low:.3f} to {high:.3f}" for low, high in ends))
    if found.shares:
        table.add_row("nothing known", *(f"{value:.3f}" for value in found.nothing.values()))
        for name in found.read:
            table.add_row(f"{name} added", *(f"{value:+.3f}" for value in found.shares[name].values()))
        for name in found.read:
            table.add_row(f"without {name}", *(f"{value:.3f}" for value in found.without[name].values()))
    return table


def _strongest(detail: Detail, number: int) -> str:
    """In words, what of a modality did most to a number of the prediction."""
    import numpy as np

    from mmmed.text import shown

    shares = detail.shares[number]
    if detail.map is None:
        most = np.argsort(-np.abs(shares))[:_MOST]
        return ", ".join(f"{shown(detail.names[i].strip())} {shares[i]:+.3f}" for i in most)
    place = np.unravel_index(np.abs(detail.map[number]).argmax(), detail.map.shape[1:])
    value = detail.map[number][place]
    if detail.shown == "curve":
        return f"{value:+.3f} at {place[0] * detail.step:.1f} s"
    where = ", ".join(
        f"{(at + 0.5) / size:.0%}" for at, size in zip(place, detail.map.shape[1:], strict=True)
    )
    return f"{value:+.3f} at {where} from the {'top and the left' if len(place) == 2 else 'first voxel'}"
