"""De-identified DICOM copies of what the sources hold, for those who need DICOM rather than a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from mmmed.deidentify.header import MASKED, METHOD, deidentify_header
from mmmed.deidentify.keys import SiteKey
from mmmed.deidentify.pixels import Box, clear_frames
from mmmed.dicom.file import open_dicom
from mmmed.dicom.pixels import MAX_SAMPLES, frame
from mmmed.errors import DataError
from mmmed.files import replacing
from mmmed.ingest.contact_sheets import copied_pages, write_pair
from mmmed.ingest.options import IngestOptions
from mmmed.ingest.scan import Instance, scan
from mmmed.ingest.sources import Skipped, clear_workspace, find_files

_MAX_FRAMES_SAMPLES = 8 * MAX_SAMPLES


@dataclass
class DeidentifyReport:
    """The result of de-identifying a set of sources.

    Attributes:
        written, masked: how many copies were written, and how many of them with text that was masked, or a side marker.
        skipped: what was left out, and why.
        page: shows the masked ones before and after, for a human to look at; None if there are none.
    """

    written: int = 0
    masked: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    page: Path | None = None


def deidentify(
    sources: Sequence[Path],
    out: Path,
    *,
    key: SiteKey,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> DeidentifyReport:
    """Write a de-identified copy of every DICOM image into ``out``/patient/study/object.dcm.

    Headers follow `deidentify.header`; every frame is looked at for burned-in text, which is blackened in all of
    them; pixels are stored uncompressed, so that no comment of a compressed stream survives. Structured reports,
    waveforms, presentation states and all that is no image are left out with a reason, as is an image whose text
    cannot be cleared. The review folder next to ``out`` shows what was masked.

    Args:
        sources: files, folders and archives.
        out: folder of the copies, made if need be.
        key: the site's key, which gives pseudonyms and shifts dates.
        workers: threads.
        progress: called with (images done, all images); None for nobody.

    Raises:
        DataError: a source does not exist, or ``out`` cannot be written.
    """
    workspace = out / ".unpacked"
    clear_workspace(workspace)
    report = DeidentifyReport()
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = scan(find_files(sources, workspace), IngestOptions(site="-"), key)
        report.skipped += found.skipped
        report.skipped += [Skipped(one.origin, "no DICOM image") for one in found.reports]
        images = [one for one in found.instances if one.kind == "image"]
        report.skipped += [
            Skipped(one.found.origin, f"{one.kind}: no image")
            for one in found.instances
            if one.kind != "image"
        ]

        def attempt(instance: Instance) -> _Copy | Skipped:
            origin = instance.found.origin
            try:
                return _copy(instance, found.people.unit(instance.patient), out, key)
            except DataError as error:
                return Skipped(
                    origin, str(error).removeprefix(f"{origin}: ").removeprefix(f"{instance.found.path}: ")
                )
            except Exception as error:  # a hostile file must not stop the others
                return Skipped(origin, f"cannot be de-identified ({type(error).__name__})")

        masked: dict[str, str] = {}
        with ThreadPoolExecutor(workers) as pool:
            for number, result in enumerate(pool.map(attempt, images), start=1):
                if isinstance(result, Skipped):
                    report.skipped.append(result)
                else:
                    report.written += 1
                    if result.masked:
                        masked[result.path.stem] = str(result.path.relative_to(out))
                if progress is not None:
                    progress(number, len(images))
        report.masked = len(masked)
        report.page = copied_pages(out, masked) if masked else None
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}); free space or allow writing"
        ) from error
    finally:
        clear_workspace(workspace)
    return report


class _Copy(NamedTuple):
    path: Path
    masked: bool


def _copy(instance: Instance, patient: str, out: Path, key: SiteKey) -> _Copy:
    """Write one copy, and the pair of pictures of one that was masked."""
    dataset = open_dicom(instance.found.path)
    brightest = frame(dataset, instance.found.origin)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames * brightest.size > _MAX_FRAMES_SAMPLES:
        raise DataError(
            f"{instance.found.origin}: {frames} frames are too many to hold at once; split the object"
        )

    def all_frames() -> Iterator[np.ndarray]:
        yield brightest.copy()
        for index in range(1, frames):
            shown = frame(dataset, instance.found.origin, index)
            np.maximum(brightest, shown, out=brightest)
            yield shown

    seen, clear = clear_frames(all_frames())
    if not clear:
        raise DataError(f"{instance.found.origin}: text in the pixels could not be cleared")
    clean = deidentify_header(dataset, key, patient)
    _set_pixels(clean, dataset, seen.boxes)
    item = key.pseudonym("item", instance.sop)
    if any(seen):
        clean.DeidentificationMethod = [METHOD, MASKED]
        write_pair(out, item, brightest, seen)
    target = out / key.patient(patient) / key.pseudonym("study", instance.study)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = target / f"{item}.dcm"
    with replacing(file) as partial:
        clean.save_as(partial, enforce_file_format=True)
    return _Copy(file, any(seen))


def _set_pixels(clean: Dataset, source: Dataset, boxes: Sequence[Box]) -> None:
    """Put the decoded stored values in place, boxes black, uncompressed little endian."""
    pixels = source.pixel_array.copy()
    colour = int(source.SamplesPerPixel) == 3
    rows_axis = pixels.ndim - (3 if colour else 2)
    interpretation = str(source.PhotometricInterpretation)
    black = 0 if colour or interpretation == "PALETTE COLOR" else pixels.min()
    if interpretation == "MONOCHROME1":
        black = pixels.max()
    for left, top, right, bottom in boxes:
        where: list[slice] = [slice(None)] * rows_axis + [slice(top, bottom), slice(left, right)]
        pixels[tuple(where)] = black
    if not np.issubdtype(pixels.dtype, np.integer):
        raise DataError("floating-point pixel data are not supported in de-identified copies")
    clean.PixelData = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
    clean["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    if len(clean.PixelData) % 2:
        clean.PixelData += b"\0"
    clean.BitsAllocated = 8 * pixels.dtype.itemsize
    clean.BurnedInAnnotation = "NO"
    if colour:
        clean.PhotometricInterpretation, clean.PlanarConfiguration = "RGB", 0
