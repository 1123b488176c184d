"""What the way from files to tensors costs: decoding, an epoch from the cache, memory, and its share of a step.

Everything runs on one thread on generated films. Memory is anonymous memory (what the machine cannot drop):
pages of the mapped cache file belong to the page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Resize, ResizeWithPadOrCrop
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from mmmed.config import ModelConfig
from mmmed.data.batch import Input
from mmmed.data.cache import Cache
from mmmed.data.image import ImageForm, preprocess, read_image
from mmmed.models.image import build_image_encoder
from simulations.bench.measure import Row, parser, publish

_FILM = (1760, 2140)
_SIZE = 64
_BATCH = 32


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    options = parser("data", "What the way from files to tensors costs", repeats=3)
    options.add_argument("--films", type=int, default=32, help="radiographs to decode (default: %(default)s)")
    options.add_argument(
        "--studies", type=int, default=50_000, help="in the memory case (default: %(default)s)"
    )
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        films = _write_films(Path(folder) / "films", chosen.films)
        found = _decoding(films, Path(folder) / "cache", chosen.repeats)
        found += _share_of_a_step(films, Path(folder) / "cache", chosen.repeats)
        found += _memory(Path(folder) / "many", chosen.studies)
    publish("files to tensors", found, chosen.json)
    return 0


def _decoding(films: list[Path], folder: Path, repeats: int) -> list[Row]:
    """An epoch over the films: read from the cache, decoded by mmmed, decoded by plain pydicom and MONAI."""
    # MONAI's other antialiasing, a Gaussian prefilter, takes 20 times as long as its mean over areas.
    resize, pad = Resize(_SIZE, size_mode="longest", mode="area"), ResizeWithPadOrCrop((_SIZE, _SIZE))

    def plain() -> None:
        for film in films:
            dataset = dcmread(film)
            values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
            pad(resize(torch.from_numpy(np.asarray(values, dtype=np.float32))[None]))

    def ours() -> None:
        for film in films:
            preprocess(read_image(film, channels=1), _SIZE)

    def cached() -> None:
        images = Cache(folder).open(films, ImageForm(_SIZE, 1))
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
        {
            "case": case,
            "system": names[key],
            "cpu_s": round(seconds, 4),
            "ratio": round(seconds / times["cache"], 1),
            "files_per_s": round(len(films) / seconds, 1),
            "anonymous_mb": round(_anonymous_mb(), 1),
        }
        for key, seconds in times.items()
    ]


def _share_of_a_step(films: list[Path], folder: Path, repeats: int) -> list[Row]:
    """A batch from the cache beside one ordinary forward and backward pass of the default image encoder."""
    images = Cache(folder).open(films, ImageForm(_SIZE, 1))
    chosen = np.arange(_BATCH) % len(films)
    encoder = build_image_encoder(ModelConfig(), 1)
    batch = Input(images[chosen], torch.ones(_BATCH, 1, dtype=torch.bool))

    def step() -> None:
        encoder(batch).square().sum().backward()

    step_s, batch_s = _median(step, 10 * repeats), _median(lambda: images[chosen], 10 * repeats)
    case = f"batch of {_BATCH} at {_SIZE} pixels"
    return [
        {"case": case, "system": name, "cpu_s": round(seconds, 5), "ratio": round(seconds / step_s, 4),
         "files_per_s": round(_BATCH / seconds, 1), "anonymous_mb": round(_anonymous_mb(), 1)}
        for name, seconds in (("forward and backward", step_s), ("batch from the cache", batch_s))
    ]  # fmt: skip


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
        images = Cache(folder / "cache").open(paths, ImageForm(_SIZE, 1))
        for start in range(0, count, 256):
            images[np.arange(start, min(start + 256, count))]
        seconds = time.process_time() - started
        found.append(
            {"case": "memory", "system": f"{count:,} studies", "cpu_s": round(seconds, 2), "ratio": 1.0,
             "files_per_s": round(count / seconds, 1), "anonymous_mb": round(_anonymous_mb(), 1)}
        )  # fmt: skip
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
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
            ComputedRadiographyImageStorage,
            generate_uid(),
        )
        film = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        film.Rows, film.Columns, film.SamplesPerPixel = *_FILM, 1
        film.PhotometricInterpretation, film.PixelRepresentation = "MONOCHROME2", 0
        film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
        film.WindowCenter, film.WindowWidth = 2048, 3500
        film.PixelData = np.roll(base, number, axis=0).tobytes()
        film["PixelData"].VR = "OW"
        paths.append(folder / f"{number}.dcm")
        film.save_as(paths[-1], enforce_file_format=True)
    return paths
