"""Statistics of volumes, clips, sounds and waveforms, with what stands out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from mmmed.check.result import CheckResult, Example
from mmmed.check.statistics import describe
from mmmed.data.video import frames_of
from mmmed.data.volume import open_volume
from mmmed.data.waveform import open_waveform
from mmmed.errors import DataError

_SAMPLED_VOLUMES, _SHOWN_VOLUMES = 60, 8
_SAMPLED_SIGNALS = 200
_FRAMES = 4  # of a clip, of which values are measured
_LOOKED_AT = 5  # slices in the middle of a volume, of which values are measured
_SILENT = 1e-4
_FEW_SLICES = 8

Measured = dict[str, float]


def files_of(table: pd.DataFrame, column: str) -> pd.Series:
    """The files that a column names, "" for none; none at all if there is no such column."""
    return table[column].fillna("").astype(str) if column in table.columns else pd.Series([], dtype=object)


def measure_volumes(files: pd.Series, root: Path, used: bool, result: CheckResult) -> None:
    """Slices, spacing, extent, orientation and values of a sample of the volumes, with examples that stand out.

    Args:
        files: paths below `root`, "" where there is none; repeats count once.
        root: folder of the data set.
        used: volumes are used in training, so that unreadable ones are a problem and not only a warning.
        result: takes facts, plots, warnings, problems and examples.
    """
    orientations: list[str] = []

    def measure(path: Path) -> Measured:
        image = open_volume(path)
        spacing = nibabel.affines.voxel_sizes(image.affine)[:3]
        orientations.append("".join(nibabel.orientations.aff2axcodes(image.affine)))
        shape, middle = image.shape[:3], image.shape[2] // 2
        rest = (0,) * (image.ndim - 3)
        start = max(0, middle - _LOOKED_AT // 2)
        values = np.asarray(
            image.dataobj[(slice(None), slice(None), slice(start, start + _LOOKED_AT), *rest)]
        )
        low, median, high = np.nanpercentile(values.astype(np.float32), (1, 50, 99))
        return {
            "slices": shape[2], "mm between slices": spacing[2], "mm between rows": spacing[0],
            "mm, longest side": max(n * mm for n, mm in zip(shape, spacing, strict=True)),
            "darkest value (1 %)": low, "median value": median, "brightest value (99 %)": high,
        }  # fmt: skip

    frame = _sampled(
        "volumes", files, root, _SAMPLED_VOLUMES, measure, result.problems if used else result.warnings
    )
    if frame.empty:
        return
    whys = describe("Volumes", frame, ("mm between slices", "median value"), result)
    kinds = pd.Series(orientations).value_counts(normalize=True)
    result.facts["Volumes"].append(
        ("axes as stored", ", ".join(f"{k} {share:.0%}" for k, share in kinds.items()))
    )
    flat = frame["brightest value (99 %)"] <= frame["darkest value (1 %)"]
    whys[flat] = "one gray"
    if flat.any():
        result.warnings.append(f"{flat.mean():.1%} of the volumes looked at are of one gray: failed exports?")
    if (frame["slices"] < _FEW_SLICES).any():
        share = (frame["slices"] < _FEW_SLICES).mean()
        result.warnings.append(
            f"{share:.1%} of the volumes looked at have fewer than {_FEW_SLICES} slices: localisers?"
        )
    for column, why in (("mm between slices", "protocols"), ("median value", "units of the voxels")):
        odd = whys.str.contains(column, regex=False).mean()
        if odd:
            result.warnings.append(f"volumes: {odd:.1%} stand out in {column}: different {why}?")
    order = sorted(frame.index, key=lambda name: (not flat[name], not whys[name]))
    result.examples += [Example(root / name, whys[name]) for name in order[:_SHOWN_VOLUMES]]


def measure_clips(files: pd.Series, root: Path, used: bool, result: CheckResult) -> None:
    """Frames of a sample of the clips, and how they move; the arguments are those of `measure_volumes`."""

    def measure(path: Path) -> Measured:
        count, clip = frames_of(path, _FRAMES)
        moves = np.abs(np.diff(clip, axis=1)).mean() if count > 1 else 0.0
        return {"frames": count, "brightness": float(clip.mean()), "change between frames": float(moves)}

    frame = _sampled(
        "clips", files, root, _SAMPLED_VOLUMES, measure, result.problems if used else result.warnings
    )
    if not frame.empty:
        describe("Clips", frame, ("frames", "brightness"), result)
        if still := (frame["change between frames"] < _SILENT).mean():
            result.warnings.append(f"{still:.1%} of the clips looked at do not move: single pictures?")


def measure_sounds(files: pd.Series, root: Path, used: bool, result: CheckResult) -> None:
    """Length and loudness of a sample of the sounds; the arguments are those of `measure_volumes`."""

    def measure(path: Path) -> Measured:
        import soundfile  # comes with the extra "ingest", as the sounds do

        values, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return {"seconds": len(values) / rate, "loudness (RMS)": float(np.sqrt(np.mean(values**2)))}

    frame = _sampled(
        "sounds", files, root, _SAMPLED_SIGNALS, measure, result.problems if used else result.warnings
    )
    if not frame.empty:
        describe("Sounds", frame, ("seconds", "loudness (RMS)"), result)
        if silent := (frame["loudness (RMS)"] < _SILENT).mean():
            result.warnings.append(f"{silent:.1%} of the sounds looked at are silent")


def measure_waveforms(files: pd.Series, root: Path, used: bool, result: CheckResult) -> None:
    """Length, channels and amplitude of a sample of the waveforms; the arguments are those of `measure_volumes`."""

    def measure(path: Path) -> Measured:
        signal, rate, _ = open_waveform(path)
        spread = np.percentile(signal, 99, axis=1) - np.percentile(signal, 1, axis=1)
        return {
            "seconds": signal.shape[1] / rate,
            "channels": len(signal),
            "largest amplitude": float(spread.max()),
            "flat channels": float((spread == 0).sum()),
        }

    frame = _sampled(
        "waveforms", files, root, _SAMPLED_SIGNALS, measure, result.problems if used else result.warnings
    )
    if not frame.empty:
        describe("Waveforms", frame, ("seconds", "largest amplitude"), result)
        if flat := (frame["flat channels"] > 0).mean():
            result.warnings.append(
                f"{flat:.1%} of the waveforms looked at have a flat channel: a lead that was off?"
            )


def _sampled(
    what: str,
    files: pd.Series,
    root: Path,
    most: int,
    measure: Callable[[Path], Measured],
    complaints: list[str],
) -> pd.DataFrame:
    """What is measured of a sample of the files, by name; complains of those that cannot be read."""
    names: Sequence[str] = list(files[files != ""].drop_duplicates())
    if len(names) > most:
        names = list(pd.Series(names).sample(most, random_state=0))
    measured, unreadable = {}, []
    for name in names:
        try:
            measured[name] = measure(root / name)
        except DataError as error:
            unreadable.append(str(error))
        except Exception as error:  # readers raise whatever they stumble over
            unreadable.append(f"{root / name}: cannot be read ({type(error).__name__}); ingest it again")
    if unreadable:
        complaints.append(
            f"{len(unreadable) / len(names):.1%} of the {what} looked at are unreadable: {unreadable[0]}"
        )
    return pd.DataFrame.from_dict(measured, orient="index")
