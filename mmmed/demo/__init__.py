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
import zlib
from pathlib import Path

import numpy as np

from mmmed.demo.dicom import write_film
from mmmed.demo.hospitals import HOSPITALS, Hospital, Study, evidence, studies
from mmmed.demo.note_writing import public_text
from mmmed.demo.recordings import DEVICES, write_ecg, write_sound
from mmmed.demo.texts import TEXTS, texts_of
from mmmed.errors import DataError
from mmmed.paths import cache_home

__all__ = ["COLUMNS", "HOSPITALS", "TEXTS", "dataset", "generate", "public_text"]

FORMAT = 2  # raise it when the same seed gives other bytes
COLUMNS = (
    *("patient_id", "study_id", "site", "image", "text", "finding", "age", "sex"),
    *("consolidation", "effusion", "nodules", "severity", "grade", "days", "event"),
)
SIGNALS = ("audio", "waveform")  # columns beside those, where they are asked for, as are TEXTS
_MARK = "generated.json"  # says what a folder was generated from
_FEWEST = 8  # patients a hospital, however small the scale


def dataset(
    cache: Path | None = None,
    *,
    seed: int = 0,
    scale: float = 1.0,
    signals: bool = False,
    texts: bool = False,
) -> Path:
    """The generated dataset's folder in ``cache``, made on first use.

    ``cache`` defaults to ``$MMMED_HOME``, or else ``~/.cache/mmmed``. Raises as :func:`generate` does.
    """
    further = "-signals" * signals + "-texts" * texts
    name = f"demo-v{FORMAT}-seed{seed}-scale{scale:g}{further}"
    return generate((cache or cache_home()) / name, seed=seed, scale=scale, signals=signals, texts=texts)


def generate(
    folder: Path, *, seed: int = 0, scale: float = 1.0, signals: bool = False, texts: bool = False
) -> Path:
    """Write the generated hospitals to ``folder``: ``data.csv`` and ``images/<site>/<study>.dcm``.

    The table has one row a study: patient_id, study_id, site, image (path below ``folder``), text (empty
    where the hospital sends no notes), finding (0 or 1), age in years, sex (F or M), and the columns of
    `mmmed.demo.outcomes.Outcome`. ``scale`` multiplies
    the hospitals' numbers of patients (at least 8 each); a smaller scale holds the first patients of a
    larger one. With ``signals`` each study has a breath sound and an ECG as well, in ``audio/<site>/<study>.wav`` and
    ``waveforms/<site>/<study>.npz`` and the columns of `SIGNALS`, "" where the hospital records none, with ``texts``
    the columns of `TEXTS`; all else is as without. The same seed gives the same bytes. The folder appears whole or not
    at all, also when several processes ask for it at once; one that holds this dataset already is left as it is.

    Raises DataError for a scale or seed out of range, or a folder that holds something else.
    """
    if not (math.isfinite(scale) and 0 < scale <= 100):
        raise DataError(f"scale of the generated dataset must be above 0 and at most 100. Found {scale}")
    if seed < 0:
        raise DataError(f"seed of the generated dataset must be 0 or more. Found {seed}")
    further = {"signals": signals, "texts": texts}
    mark = {"format": FORMAT, "seed": seed, "scale": scale} | {
        name: True for name in further if further[name]
    }
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
        _write(draft, seed, scale, signals, texts)
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


def _write(folder: Path, seed: int, scale: float, signals: bool, texts: bool) -> None:
    folder.mkdir()
    with (folder / "data.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS + SIGNALS * signals + TEXTS * texts, lineterminator="\n")
        table.writeheader()
        for site, hospital in enumerate(HOSPITALS):
            (folder / "images" / hospital.name).mkdir(parents=True)
            patients = max(_FEWEST, round(hospital.patients * scale))
            for study in studies(hospital, site, seed=seed, patients=patients):
                row = _row(folder, hospital, study, seed)
                row |= _record(folder, study, site, seed) if signals else {}
                row |= texts_of(study.info.study_id, study.finding, study.outcome) if texts else {}
                table.writerow(row)


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


def _record(folder: Path, study: Study, site: int, seed: int) -> dict[str, str]:
    """Write a study's sound and ECG, from randomness of their own: film and note are the same without them."""
    info, devices = study.info, DEVICES[study.info.site]
    rng = np.random.default_rng([seed, site, zlib.crc32(info.study_id.encode())])
    files = {
        "audio": f"audio/{info.site}/{info.study_id}.wav",
        "waveform": f"waveforms/{info.site}/{info.study_id}.npz",
    }
    for file in files.values():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
    if devices.sound_hz:
        write_sound(folder / files["audio"], devices, evidence(study.finding, rng), rng)
    else:
        files["audio"] = ""
    write_ecg(folder / files["waveform"], devices, evidence(study.finding, rng), rng)
    return files
