"""Generated hospitals: the dataset that mmmed brings along, for first steps, demonstrations and tests.

Nothing in it is of a real person. It lies on disk as real data does, a table and DICOM files, and is read
in the same way. docs/demo-data.md says how it is made and how hard it is.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import uuid
from pathlib import Path

from mmmed.demo.dicom import write_film
from mmmed.demo.hospitals import HOSPITALS, Hospital, Study, studies
from mmmed.demo.note_writing import public_text
from mmmed.errors import DataError
from mmmed.paths import cache_home

__all__ = ["COLUMNS", "HOSPITALS", "dataset", "generate", "public_text"]

FORMAT = 2  # raise it when the same seed gives other bytes
COLUMNS = (
    *("patient_id", "study_id", "site", "image", "text", "finding", "age", "sex"),
    *("consolidation", "effusion", "nodules", "severity", "grade", "days", "event"),
)
_MARK = "generated.json"  # says what a folder was generated from
_FEWEST = 8  # patients a hospital, however small the scale


def dataset(cache: Path | None = None, *, seed: int = 0, scale: float = 1.0) -> Path:
    """The generated dataset's folder in ``cache``, made on first use.

    ``cache`` defaults to ``$MMMED_HOME``, or else ``~/.cache/mmmed``. Raises as :func:`generate` does.
    """
    return generate(
        (cache or cache_home()) / f"demo-v{FORMAT}-seed{seed}-scale{scale:g}", seed=seed, scale=scale
    )


def generate(folder: Path, *, seed: int = 0, scale: float = 1.0) -> Path:
    """Write the generated hospitals to ``folder``: ``data.csv`` and ``images/<site>/<study>.dcm``.

    The table has one row a study: patient_id, study_id, site, image (path below ``folder``), text (empty
    where the hospital sends no notes), finding (0 or 1), age in years, sex (F or M), and the columns of
    `mmmed.demo.outcomes.Outcome`. ``scale`` multiplies
    the hospitals' numbers of patients (at least 8 each); a smaller scale holds the first patients of a
    larger one. The same seed gives the same bytes. The folder appears whole or not at all, also when
    several processes ask for it at once; one that holds this dataset already is left as it is.

    Raises DataError for a scale or seed out of range, or a folder that holds something else.
    """
    if not (math.isfinite(scale) and 0 < scale <= 100):
        raise DataError(f"scale of the generated dataset must be above 0 and at most 100. Found {scale}")
    if seed < 0:
        raise DataError(f"seed of the generated dataset must be 0 or more. Found {seed}")
    mark = {"format": FORMAT, "seed": seed, "scale": scale}
    if _holds(folder, mark):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(
            f"{folder} is there and is not the generated dataset with seed {seed}, scale {scale:g}, "
            f"format {FORMAT}: name an empty or new folder"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _write(draft, seed, scale)
        (draft / _MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
        try:
            draft.rename(folder)
        except OSError:
            if not _holds(folder, mark):  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _holds(folder: Path, mark: dict[str, float]) -> bool:
    try:
        return bool(json.loads((folder / _MARK).read_text(encoding="utf-8")) == mark)
    except (OSError, ValueError):
        return False


def _write(folder: Path, seed: int, scale: float) -> None:
    folder.mkdir()
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for site, hospital in enumerate(HOSPITALS):
            (folder / "images" / hospital.name).mkdir(parents=True)
            patients = max(_FEWEST, round(hospital.patients * scale))
            for study in studies(hospital, site, seed=seed, patients=patients):
                table.writerow(_row(folder, hospital, study, seed))


def _row(folder: Path, hospital: Hospital, study: Study, seed: int) -> dict[str, str | int | float]:
    info = study.info
    image = f"images/{hospital.name}/{info.study_id}.dcm"
    write_film(folder / image, study.film, study.encoding, info, seed)
    return {
        "patient_id": info.patient_id,
        "study_id": info.study_id,
        "site": info.site,
        "image": image,
        "text": study.text,
        "finding": study.finding,
        "age": info.age,
        "sex": info.sex,
        **study.outcome._asdict(),
    }
