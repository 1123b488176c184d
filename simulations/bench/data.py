"""What the way from files to tensors costs: headers, decoding, an epoch from the cache, memory, its share of a step.

Everything runs on one thread on generated films. Memory is anonymous memory (what the machine cannot drop):
pages of the mapped cache file belong to the page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.transforms import Resize, ResizeWithPadOrCrop
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from mmmed.config import ModelConfig
from mmmed.data.batch import Batch
from mmmed.data.image import preprocess, read_image
from mmmed.data.loader import PatientBatches, Records
from mmmed.data.pixel_cache import Cache, CachedRows
from mmmed.data.stored import Stored
from mmmed.deidentify import SiteKey
from mmmed.ingest.options import IngestOptions
from mmmed.ingest.scan import scan
from mmmed.ingest.sources import find_files
from mmmed.modalities.image import ImageForm
from mmmed.modalities.volume import VolumeForm
from mmmed.models.image import build_image_encoder, build_volume_encoder
from simulations.bench.measure import Row, parser, publish

_FILM = (1760, 2140)
_SIDE = 64
_VOLUME, _VOLUME_SIDE = (160, 160, 64), 48
_BATCH = 32


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("data", "What the way from files to tensors costs", repeats=3)
    options.add_argument("--films", type=int, default=32, help="radiographs to decode (default: %(default)s)")
    options.add_argument("--volumes", type=int, default=16, help="CT volumes (default: %(default)s)")
    options.add_argument(
        "--studies", type=int, default=50_000, help="in the memory case (default: %(default)s)"
    )
    options.add_argument(
        "--headers", type=int, default=2000, help="headers that ingest reads first (default: %(default)s)"
    )
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        films = _write_films(Path(folder) / "films", chosen.films)
        found = _decoding(films, Path(folder) / "cache", chosen.repeats)
        found += _headers(Path(folder) / "headers", chosen.headers, chosen.repeats)
        found += _images(films, Path(folder) / "cache", chosen.repeats)
        found += _volumes(Path(folder) / "volumes", chosen.volumes, chosen.repeats)
        found += _memory(Path(folder) / "many", chosen.studies)
    publish("files to tensors", found, chosen.json)
    return 0


def _decoding(films: list[Path], folder: Path, repeats: int) -> list[Row]:
    """An epoch over the films: read from the cache, decoded by mmmed, decoded by plain pydicom and MONAI."""
    # MONAI's other antialiasing, a Gaussian prefilter, takes 20 times as long as its mean over areas.
    resize, pad = Resize(_SIDE, size_mode="longest", mode="area"), ResizeWithPadOrCrop((_SIDE, _SIDE))

    def plain() -> None:
        for film in films:
            dataset = dcmread(film)
            values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
            pad(resize(torch.from_numpy(np.asarray(values, dtype=np.float32))[None]))

    def ours() -> None:
        for film in films:
            preprocess(read_image(film, channels=1), _SIDE)

    def cached() -> None:
        images = Cache(folder).open(films, ImageForm(_SIDE, 1))
        for start in range(0, len(films), _BATCH):
            images[np.arange(start, min(start + _BATCH, len(films)))]

    cached()  # builds it
    times = {
        name: _median(work, repeats) for name, work in (("plain", plain), ("mmmed", ours), ("cache", cached))
    }
    case = f"epoch of {len(films)} films, {_FILM[0]} x {_FILM[1]}, 12 bits"
    names = {
        "plain": "pydicom + MONAI, decoding",
        "mmmed": "mmmed, decoding",
        "cache": "mmmed, opening the cache",
    }
    return [
        _row(case, names[key], seconds, seconds / times["cache"], len(films))
        for key, seconds in times.items()
    ]


def _headers(folder: Path, count: int, repeats: int) -> list[Row]:
    """What ingest does first, reading every header and learning who is in it, beside pydicom's reading alone."""
    folder.mkdir()
    for number in range(count):
        film = _film(np.zeros((8, 8), np.uint16))
        film.PatientID, film.PatientName, film.PatientBirthDate = (
            f"P{number:06}",
            f"Doe{number}^Jane",
            "19570830",
        )
        film.StudyInstanceUID, film.SeriesInstanceUID = generate_uid(), generate_uid()
        film.AccessionNumber, film.StudyDate, film.Modality = f"A{number}", "20200102", "CR"
        film.PatientSex, film.PatientAge, film.ViewPosition = "F", "062Y", "PA"
        film.ReferringPhysicianName, film.OperatorsName = "Vandenberg^Ann", "Otto^Karl"
        film.InstitutionName, film.StationName, film.BodyPartExamined = "Klinikum Nord", "CR1", "CHEST"
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
            "168537006",
            "SCT",
            "Plain radiography",
        )
        film.ProcedureCodeSequence = [item]
        film.save_as(folder / f"{number}.dcm", enforce_file_format=True)

    def plain() -> None:
        for path in folder.iterdir():
            dcmread(path, stop_before_pixels=True)

    def ours() -> None:
        files = find_files([folder], folder / "unpacked")
        assert len(scan(files, IngestOptions(site="-"), SiteKey(bytes(32))).instances) == count

    plain_s = _median(plain, repeats)
    case = f"{count:,} headers"
    return [
        _row(case, "pydicom, stop before pixels", plain_s, 1.0, count),
        _row(case, "mmmed, scan", ours_s := _median(ours, repeats), ours_s / plain_s, count),
    ]


def _row(case: str, system: str, seconds: float, ratio: float, files: int) -> Row:
    return {
        "case": case, "system": system, "cpu_s": round(seconds, 5), "ratio": round(ratio, 4 if ratio < 1 else 1),
        "files_per_s": round(files / seconds, 1), "anonymous_mb": round(_anonymous_mb(), 1),
    }  # fmt: skip


def _volumes(folder: Path, count: int, repeats: int) -> list[Row]:
    """An epoch over CT volumes, read from the cache or decoded and resampled, and its share of a step."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    volumes = []
    for number in range(count):
        values = draw.integers(-1000, 1000, _VOLUME).astype(np.int16)
        volumes.append(folder / f"{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2.5, 1.0])), volumes[-1])
    form = VolumeForm(_VOLUME_SIDE, 0.0, (-1000.0, 400.0))

    def opened() -> CachedRows:
        return Cache(folder / "cache").open(volumes, form)

    def decoded() -> None:
        for volume in volumes:
            form.build(volume)

    opened()  # builds it
    cached_s = _median(lambda: opened()[np.arange(count)], repeats)
    case = f"epoch of {count} volumes, {_VOLUME[0]} x {_VOLUME[1]} x {_VOLUME[2]}, .nii.gz"
    found = [
        _row(case, name, seconds, seconds / cached_s, count)
        for name, seconds in (
            ("mmmed, decoding", _median(decoded, repeats)),
            ("mmmed, opening the cache", cached_s),
        )
    ]
    encoder = build_volume_encoder(ModelConfig())
    return found + _share_of_a_step("volume", opened, encoder, f"{_VOLUME_SIDE} voxels a side", repeats)


def _images(films: list[Path], folder: Path, repeats: int) -> list[Row]:
    def opened() -> CachedRows:
        return Cache(folder).open(films, ImageForm(_SIDE, 1))

    return _share_of_a_step(
        "image", opened, build_image_encoder(ModelConfig(), 1), f"{_SIDE} pixels a side", repeats
    )


def _share_of_a_step(
    name: str, opened: Callable[[], CachedRows], encoder: torch.nn.Module, size: str, repeats: int
) -> list[Row]:
    """The input pipeline (patients to a batch) beside one ordinary forward and backward pass of the default encoder.

    In the first epoch every row is checked against its checksum.
    """

    def batches(augment: bool = False) -> Callable[[], Batch]:
        rows = opened()
        count = len(rows)
        modality = Stored(rows, torch.ones(count, 1, dtype=torch.bool))
        labels = torch.zeros(count, dtype=torch.long)
        names = tuple(map(str, range(count)))
        records = Records({name: modality}, labels, np.arange(count), names, np.arange(count))
        make = PatientBatches(records, records_per_patient=1, seed=0, augment=augment)
        return lambda: make(0, np.arange(min(_BATCH, count)))

    fresh = [batches() for _ in range(3 * repeats)]
    first_s = _median(lambda: fresh.pop()(), len(fresh) - 1)
    later = batches()
    views = batches(augment=True)
    batch = later()
    step_s = _median(lambda: encoder(batch.inputs[name]).square().sum().backward(), 3 * repeats)
    case = f"batch of {len(batch)}, {size}"
    return [
        _row(case, system, seconds, seconds / step_s, len(batch))
        for system, seconds in (
            ("forward and backward", step_s),
            ("input, first epoch", first_s),
            ("input, later epochs", _median(later, 10 * repeats)),
            ("input, later epochs, random views", _median(views, 10 * repeats)),
        )
    ]


def _memory(folder: Path, most: int) -> list[Row]:
    """Anonymous memory after building, opening and reading every row of ever more studies."""
    found: list[Row] = []
    folder.mkdir()
    pixels = np.zeros((24, 24), np.uint8)
    paths: list[Path] = []
    for count in sorted({max(1, most // 25), max(1, most // 5), most}):
        for number in range(len(paths), count):
            pixels.flat[:4] = np.frombuffer(number.to_bytes(4, "little"), np.uint8)
            path = folder / f"{number}.png"
            Image.fromarray(pixels).save(path, compress_level=0)
            paths.append(path)
        started = time.process_time()
        images = Cache(folder / "cache").open(paths, ImageForm(_SIDE, 1))
        for start in range(0, count, 256):
            images[np.arange(start, min(start + 256, count))]
        seconds = time.process_time() - started
        found.append(_row("memory", f"{count:,} studies", seconds, 1.0, count))
        del images
    return found


def _median(work: Callable[[], object], repeats: int) -> float:
    """CPU-seconds, after one run that warms up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return float(np.median(times))


def _anonymous_mb() -> float:
    line = next(
        one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024 / 1e6


def _write_films(folder: Path, count: int) -> list[Path]:
    """Uncompressed 12-bit radiographs with a window, each of its own noise."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    base = draw.integers(0, 4096, _FILM, dtype=np.uint16)
    paths = []
    for number in range(count):
        paths.append(folder / f"{number}.dcm")
        _film(np.roll(base, number, axis=0)).save_as(paths[-1], enforce_file_format=True)
    return paths


def _film(pixels: np.ndarray) -> FileDataset:
    """An uncompressed 12-bit radiograph (H, W) of nobody."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        ComputedRadiographyImageStorage,
        generate_uid(),
    )
    film = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.Rows, film.Columns, film.SamplesPerPixel = *pixels.shape, 1
    film.PhotometricInterpretation, film.PixelRepresentation = "MONOCHROME2", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.WindowCenter, film.WindowWidth = 2048, 3500
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    return film
