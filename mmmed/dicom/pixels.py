"""One frame of a DICOM image as a calibrated display would show it (PS3.4 annex N, PS3.3 C.7.6.3, C.11).

Grayscale: stored values -> modality LUT -> VOI LUT or window -> [0, 1], MONOCHROME1 inverted, padding black.
Colour: palette or YBR -> RGB, divided by the largest value. Overlays and ICC profiles are not applied.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from mmmed.dicom.numbers import Unreadable, stated
from mmmed.errors import DataError

MAX_SAMPLES = 100_000_000  # rows x columns x samples of one frame: ten times a mammogram
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")


def frame(
    dataset: Dataset, name: object, index: int = 0, ends: tuple[float, float] | None = None
) -> np.ndarray:
    """Decode frame ``index``: float32 in [0, 1], (1, H, W) for grayscale or (3, H, W) for colour.

    ``name`` stands for the file in errors; ``ends`` are what deep values without LUT and window are stretched from,
    their own range if it is None. Raises `DataError` if there is no image, it is too large, or its
    codestream is damaged or contradicts the header.
    """
    stored = stored_values(dataset, name, index)
    interpretation = str(dataset.get("PhotometricInterpretation", ""))
    try:
        if interpretation in ("MONOCHROME1", "MONOCHROME2") and stored.ndim == 2:
            return _grayscale(stored, dataset, index, ends)
        if interpretation == "PALETTE COLOR" and stored.ndim == 2:
            colour = apply_color_lut(stored, dataset)
            return _channels_first(colour, np.iinfo(colour.dtype).max)
        if interpretation in _COLOUR and stored.ndim == 3:
            return _channels_first(stored, 2 ** int(dataset.BitsStored) - 1)
    except Unreadable as error:
        raise _refused(name, error) from error
    except Exception as error:  # look-up tables and windows come from the file, too
        raise DataError(
            f"{name}: look-up table, window or bit depth is damaged ({type(error).__name__}); "
            "export the image again"
        ) from error
    raise DataError(
        f"{name}: photometric interpretation {interpretation!r} with {stored.ndim - 1} or more samples a pixel "
        "is not supported; expected MONOCHROME1/2, PALETTE COLOR, RGB or YBR. Convert the image"
    )


def frame_count(dataset: Dataset, name: object) -> int:
    """How many frames there are, 1 or more. Raises `DataError` if the header says so in no number."""
    try:
        return max(1, int(dataset.get("NumberOfFrames") or 1))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: Number of Frames is no number; export the image again") from error


def frames(dataset: Dataset, name: object, indices: Sequence[int]) -> list[np.ndarray]:
    """Some frames, as `frame` decodes each; deep values without LUT and window are stretched over all of them alike.

    Raises `DataError` as `frame`.
    """
    ends = range_of(dataset, name, indices)
    return [frame(dataset, name, index, ends) for index in indices]


def range_of(dataset: Dataset, name: object, indices: Sequence[int]) -> tuple[float, float] | None:
    """What several gray frames without a window are stretched from alike (`frame`); None if each shows as it is."""
    gray = str(dataset.get("PhotometricInterpretation", "")) in ("MONOCHROME1", "MONOCHROME2")
    if gray and len(indices) > 1 and "WindowCenter" not in dataset:
        return _ends(dataset, name, sorted(set(indices)))
    return None


def _ends(dataset: Dataset, name: object, indices: Sequence[int]) -> tuple[float, float]:
    """The smallest and the largest value that is no padding, of all these frames."""
    low, high = np.inf, -np.inf
    for index in indices:
        stored = stored_values(dataset, name, index)
        try:
            values = _modality(stored, dataset, index)
        except Unreadable as error:
            raise _refused(name, error) from error
        seen = values[np.isfinite(values) & ~_padding(stored, dataset)]
        if len(seen):
            low, high = min(low, float(seen.min())), max(high, float(seen.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def stored_values(dataset: Dataset, name: object, index: int = 0) -> np.ndarray:
    """Decode frame ``index`` to stored values, (H, W) or (H, W, 3), YBR turned to RGB, native byte order."""
    try:
        _check_declared(dataset, name, index)
        array = pixel_array(_full_samples(dataset, name), index=index)
    except DataError:
        raise
    except Exception as error:  # decoders raise whatever they stumble over
        raise DataError(
            f"{name}: pixel data cannot be decoded ({type(error).__name__}); "
            "export the image again, uncompressed if need be"
        ) from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


_GRAY = 8  # levels by which a gray pixel may be off
_CLEARLY = 2  # times as many pixels


def _full_samples(dataset: Dataset, name: object) -> Dataset:
    """The data set; if it says that colour is halved (YBR_FULL_422) and all samples are there, as what they are.

    Most of a medical picture is gray: equal samples in RGB, 128 in both colours of YBR. Raises `DataError` if neither
    is clear.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if dataset.get("PhotometricInterpretation") != "YBR_FULL_422" or syntax.is_encapsulated:
        return dataset
    pixels, frames = int(dataset.Rows) * int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    if dataset.get("BitsAllocated") != 8 or len(dataset.PixelData) < 3 * pixels * frames:
        return dataset
    samples = np.frombuffer(dataset.PixelData, np.uint8, 3 * pixels).astype(np.int16)
    first, second, third = (
        samples.reshape(3, -1) if dataset.get("PlanarConfiguration") else samples.reshape(-1, 3).T
    )
    equal = ((np.abs(first - second) <= _GRAY) & (np.abs(first - third) <= _GRAY)).sum()
    middle = ((np.abs(second - 128) <= _GRAY) & (np.abs(third - 128) <= _GRAY)).sum()
    if max(equal, middle) < _CLEARLY * min(equal, middle) or equal == middle:
        raise DataError(
            f"{name}: YBR_FULL_422 over full samples that may be RGB or YBR; export the image again"
        )
    full = copy.copy(dataset)
    full.PhotometricInterpretation = "RGB" if equal > middle else "YBR_FULL"
    return full


def _check_declared(dataset: Dataset, name: object, index: int) -> None:
    """Refuse what the header, or a codestream that differs from it, would make a decoder allocate."""
    try:
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        samples, frames = int(dataset.get("SamplesPerPixel", 1)), int(dataset.get("NumberOfFrames") or 1)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{name}: Rows, Columns, Samples per Pixel or Number of Frames is missing or no number; "
            "export the image again"
        ) from error
    if min(rows, columns, frames) < 1 or samples not in (1, 3) or rows * columns * samples > MAX_SAMPLES:
        raise DataError(
            f"{name}: declares {rows} x {columns} pixels of {samples} samples; expected 1 or 3 samples and "
            f"1 to {MAX_SAMPLES:,} in all. Convert the image"
        )
    if not 0 <= index < frames:
        raise DataError(f"{name}: has {frames} frames; frame {index} was asked for")
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DataError(f"{name}: has no pixel data")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        try:
            code = get_frame(dataset.PixelData, index, number_of_frames=frames)
        except Exception as error:
            raise DataError(f"{name}: the encapsulated frames are damaged; export the image again") from error
        height, width = _codestream_size(code, jpeg2000=syntax in JPEG2000TransferSyntaxes)
        if (height, width) != (rows, columns):
            raise DataError(
                f"{name}: the header declares {rows} x {columns} pixels, the compressed image "
                f"{height} x {width}; export the image again"
            )


def _codestream_size(code: bytes, *, jpeg2000: bool) -> tuple[int, int]:
    """Rows and columns of a JPEG, JPEG-LS (SOF marker) or JPEG 2000 (SIZ marker) codestream; (0, 0) if none."""
    if jpeg2000:
        at = code.find(b"\xff\x4f\xff\x51")  # SOC, SIZ; ISO 15444-1 A.5.1 (a JP2 box may come before)
        right, bottom, left, top = (int.from_bytes(code[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
        return (bottom - top, right - left) if at >= 0 else (0, 0)
    at = 2
    while at + 9 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return int.from_bytes(code[at + 5 : at + 7], "big"), int.from_bytes(code[at + 7 : at + 9], "big")
        else:
            at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return 0, 0


def _channels_first(array: np.ndarray, largest: float) -> np.ndarray:
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0), dtype=np.float32)
    return planes.clip(0, largest) / np.float32(largest)


def _grayscale(
    stored: np.ndarray, dataset: Dataset, index: int, ends: tuple[float, float] | None
) -> np.ndarray:
    padded = _padding(stored, dataset)
    values = _modality(stored, dataset, index)
    padded |= ~np.isfinite(values)
    shown = _voi(values, padded, dataset, index, ends)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[padded] = 0
    return shown[None]


def _padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Bool, where the scanner padded the image: Pixel Padding Value, or the range to Pixel Padding Range Limit."""
    value = dataset.get("PixelPaddingValue")
    if value is None or not np.issubdtype(stored.dtype, np.integer):
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    # Both are often written with the wrong sign: wrap them as the pixels are.
    low, high = sorted(int(np.array(int(v)).astype(stored.dtype)) for v in (value, limit))
    return (stored >= low) & (stored <= high)


def modality_values(dataset: Dataset, name: object, index: int = 0) -> np.ndarray:
    """Frame ``index`` after the modality LUT, (H, W) float32: Hounsfield units for CT.

    Raises `DataError` as `frame`, also if the rescale slope or intercept is stated but cannot be right.
    """
    stored = stored_values(dataset, name, index)
    try:
        return _modality(stored, dataset, index)
    except Unreadable as error:
        raise _refused(name, error) from error


def _refused(name: object, error: Unreadable) -> DataError:
    return DataError(f"{name}: {error}; correct the header, or leave the object out")


def _modality(stored: np.ndarray, dataset: Dataset, index: int) -> np.ndarray:
    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset).astype(np.float32)
    group = _functional_group(dataset, "PixelValueTransformationSequence", index)
    slope, intercept = _number(group, "RescaleSlope", 1.0), _number(group, "RescaleIntercept", 0.0)
    if slope == 0:
        raise Unreadable("RescaleSlope is 0, which makes all pixels alike")
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _voi(
    values: np.ndarray, padded: np.ndarray, dataset: Dataset, index: int, ends: tuple[float, float] | None
) -> np.ndarray:
    """Values of interest to [0, 1]: VOI LUT, else window, else `ends`, else the range of the values.

    Without LUT and window, values of at most 8 bits are taken as ready for display; deeper ones are
    stretched from their smallest to their largest.
    """
    if dataset.get("VOILUTSequence"):
        return _look_up(values, dataset.VOILUTSequence[0], dataset)
    group = _functional_group(dataset, "FrameVOILUTSequence", index)
    centre, width = _number(group, "WindowCenter", np.nan), _number(group, "WindowWidth", np.nan)
    function = str(group.get("VOILUTFunction") or "LINEAR")
    if np.isfinite(centre) and np.isfinite(width) and width >= (1 if function == "LINEAR" else 1e-6):
        return _window(values, centre, width, function)
    bits = int(dataset.get("BitsStored", 32))
    if bits <= 8:
        first = -(2 ** (bits - 1)) if dataset.get("PixelRepresentation", 0) else 0
        low, high = _span(_modality(np.array([first, first + 2**bits - 1]), dataset, index))
    else:
        low, high = ends or _span(values[~padded] if not padded.all() else np.zeros(1, np.float32))
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _window(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    """Apply a window to modality values, PS3.3 C.11.2.1.2 and C.11.2.1.3, with the output range [0, 1]."""
    if function == "SIGMOID":
        return (1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80)))).astype(np.float32)
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _look_up(values: np.ndarray, item: Dataset, dataset: Dataset) -> np.ndarray:
    """Apply a VOI LUT, PS3.3 C.11.2.1.1: values below and above the table take its first and last entry."""
    _, first, bits = (int(number) for number in item.LUTDescriptor)
    table = item.LUTData
    if isinstance(table, bytes):  # OW
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        table = np.frombuffer(table, dtype=f"{order}u2")
    entries = np.asarray(table, dtype=np.float32)
    at = np.nan_to_num(values - first, nan=0.0).clip(0, len(entries) - 1).round().astype(np.int64)
    return np.clip(entries[at] / (2**bits - 1), 0, 1)


def _functional_group(dataset: Dataset, sequence: str, index: int) -> Dataset:
    """The item that describes a frame: of the frame, of all frames, or the data set itself (PS3.3 C.7.6.16)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (per_frame[index : index + 1], shared[:1]):
        if groups and groups[0].get(sequence):
            return groups[0][sequence][0]
    return dataset


def _number(dataset: Dataset, keyword: str, absent: float) -> float:
    """The first value of an element, or ``absent`` if it is not stated. Raises `Unreadable` if it is no number."""
    value = stated(dataset, keyword)
    return absent if value is None else value
