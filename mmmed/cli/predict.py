"""``mmmed predict``: ask a trained model about one study, or about all of a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmmed.cli.options import DataFolder, JsonFile, LogFolder

if TYPE_CHECKING:
    from rich.table import Table

    from mmmed.api import Model, Predicted, Prediction
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
    sr: Annotated[
        Path | None, typer.Option(help="DICOM SR in the image's study; with --data a folder of them.")
    ] = None,
    fhir: Annotated[
        Path | None, typer.Option(help="FHIR DiagnosticReport, JSON; with --data a folder of them.")
    ] = None,
    data: DataFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="With --data: the predictions, CSV or Parquet by the name's end.")
    ] = None,
    log: LogFolder = None,
    about: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="With --log: study=ID, patient=ID, sex, age, site, scanner; repeat."
        ),
    ] = None,
) -> None:
    """Predict one study from its files and values, or every study of --data. Nothing of it is kept but by --log.

    NAME=VALUE says what is known, any part of what the model reads: image=film.dcm, age=63,
    text=@note.txt or the text itself.
    """
    from mmmed.extras import require
    from simulations.working import working

    if sr is not None or fhir is not None:
        require("reports", "--sr" if sr is not None else "--fhir")
    with working("reading the model"):
        from mmmed.api import load_model
        from mmmed.errors import DataError
        from mmmed.files import replacing

        model = load_model(run, log=log)
    if about:
        model = model.about(**_known(about))
    if data is not None:
        if about or given or explain or json_file or page or picture or of or out is None:
            raise typer.BadParameter("--data goes with --out FILE, and with nothing of a single study")
        _predict_all(model, data, out, sr, fhir)
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
    if sr is not None:
        files[sr] = model.structured_report(found, **values)
    if fhir is not None:
        files[fhir] = model.diagnostic_report(found, **values).encode()
    _show(found, number)
    for file, content in files.items():
        with replacing(file) as partial:
            partial.write_bytes(content)


def _known(about: list[str]) -> dict[str, str]:
    return {name: str(value) for name, value in map(_pair, about)}


def _pair(text: str) -> tuple[str, str | Path]:
    """``name=value`` or ``name=@file``."""
    from mmmed.errors import DataError

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise DataError(f"expected NAME=VALUE, such as image=film.dcm. Found {text!r}")
    return name, Path(value[1:]) if value.startswith("@") else value


def _predict_all(model: Model, data: str, out: Path, sr: Path | None, fhir: Path | None) -> None:
    import sys
    import warnings

    from mmmed.api import predict_each
    from mmmed.errors import DataError
    from mmmed.files import replacing
    from mmmed.text import escaped
    from simulations.working import working

    kinds = {".csv": "to_csv", ".parquet": "to_parquet"}
    if out.suffix.lower() not in kinds:
        raise DataError(f"--out {out}: expected a name that ends in .csv or .parquet")
    for folder in filter(None, (sr, fhir)):
        if folder.exists():
            raise DataError(f"{folder}: is there already. Name a new folder for the reports")
    with warnings.catch_warnings(record=True) as problems:
        warnings.simplefilter("always", UserWarning)
        with working("predicting every study"):
            table, records = predict_each(model, data)
    for problem in problems:
        sys.stderr.write(f"note: {escaped(str(problem.message))}\n")  # it may quote a cell
    with replacing(out) as partial:
        getattr(table, kinds[out.suffix.lower()])(partial, index=False)
    print(f"{len(table)} studies: {out}")
    if sr is not None or fhir is not None:
        _report_each(model, records, sr, fhir)


def _report_each(model: Model, records: Iterable[Predicted], sr: Path | None, fhir: Path | None) -> None:
    """A file a record, named by its row in the table: a patient's identifier is no name of a file."""
    import sys

    from mmmed.errors import DataError
    from mmmed.reporting.fhir import diagnostic_report
    from mmmed.reporting.structured import structured_report
    from mmmed.text import escaped

    for folder in filter(None, (sr, fhir)):
        folder.mkdir(mode=0o700, parents=True)
    count = without = 0
    for one in records:
        told, name = model.told(one.prediction, one.files, one.patient), f"row-{one.row + 1:06d}"
        count += 1
        if fhir is not None:
            (fhir / f"{name}.json").write_text(diagnostic_report(told), encoding="utf-8")
        if sr is not None and told.source is None:
            without += 1
        elif sr is not None:
            try:
                (sr / f"{name}.dcm").write_bytes(structured_report(told))
            except DataError as error:
                without += 1
                sys.stderr.write(f"note: row {one.row + 1}: {escaped(str(error))}\n")
    if fhir is not None:
        print(f"{count} FHIR reports: {fhir}")
    if sr is not None:
        rest = f"; {without} studies have none, for want of a DICOM image" if without else ""
        print(f"{count - without} DICOM SR: {sr}{rest}")


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
    sizes = detail.map.shape[1:]
    share = [f"{(at + 0.5) / size:.0%}" for at, size in zip(place, sizes, strict=True)]
    if detail.shown in ("clip", "views"):
        plane = "frame" if detail.shown == "clip" else "view"
        return f"{value:+.3f} in {plane} {place[0] + 1} of {sizes[0]}, {', '.join(share[1:])} from the top and the left"
    where = ", ".join(share)
    return f"{value:+.3f} at {where} from the {'top and the left' if len(place) == 2 else 'first voxel'}"
