from __future__ import annotations

import multiprocessing
import os
import pickle
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmmed.data import image as image_module
from mmmed.data import pixel_cache as cache_module
from mmmed.data.image import preprocess, read_image
from mmmed.data.pixel_cache import Cache
from mmmed.errors import DataError
from mmmed.modalities.image import ImageForm


def _films(folder: Path, count: int = 6, side: int = 40) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    paths = [folder / f"patient-{i}.png" for i in range(count)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (side, side + 10), dtype=np.uint8)).save(path)
        os.utime(path, (1e9, 1e9))  # long settled
    return paths


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    files: list[Path] = []

    def counted(path: Path, **options: int) -> np.ndarray:
        files.append(path)
        return read_image(path, **options)

    monkeypatch.setattr(image_module, "read_image", counted)
    return files


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), size=st.sampled_from([16, 64, 101]),
    value=st.floats(0.1, 1),
)  # fmt: skip
def test_preprocess_keeps_aspect_centre_and_mean(height: int, width: int, size: int, value: float) -> None:
    out = preprocess(np.full((1, height, width), value, np.float32), size)
    assert out.shape == (1, size, size) and out.dtype == np.float32
    inside = out[0] > 0.05
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert max(rows, columns) == size
    assert rows == max(1, round(height * size / max(height, width)))
    assert columns == max(1, round(width * size / max(height, width)))
    np.testing.assert_allclose(out[0][inside], value, atol=1e-3)
    assert abs(np.argwhere(inside).mean(0) - (size - 1) / 2).max() <= 0.5


def test_preprocess_is_antialiased() -> None:
    stripes = np.tile(np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32), (1, 256, 32))
    np.testing.assert_allclose(preprocess(stripes, 32)[0, :, 2:-2], 1 / 8, atol=0.05)


def test_rows_are_the_preprocessed_images_and_absent_ones_are_zero(tmp_path: Path) -> None:
    films = _films(tmp_path / "films")
    images = Cache(tmp_path / "cache").open([films[0], None, *films[1:], films[0]], ImageForm(32, 3))
    assert len(images) == 8
    batch = images[np.array([1, 7, 2, 2])]
    assert batch.dtype == torch.float32 and batch.shape == (4, 3, 32, 32)
    assert (batch[0] == 0).all() and torch.equal(batch[2], batch[3])
    for row, film in ((1, films[0]), (2, films[1])):
        np.testing.assert_allclose(batch[row], preprocess(read_image(film, channels=3), 32), atol=1 / 65535)
    assert images[np.array([], dtype=int)].shape == (0, 3, 32, 32)
    assert torch.equal(pickle.loads(pickle.dumps(images))[np.arange(8)], images[np.arange(8)])  # noqa: S301


def test_only_new_files_changed_files_and_other_options_are_built(tmp_path: Path, built: list[Path]) -> None:
    films = _films(tmp_path / "films")
    cache = Cache(tmp_path / "cache")
    steps: list[tuple[int, int]] = []
    cache.open(films, ImageForm(32, 1), progress=lambda done, total: steps.append((done, total)))
    assert sorted(built) == films and steps == [(i, 6) for i in range(1, 7)]
    built.clear()
    cache.open(films, ImageForm(32, 1))
    assert built == []
    Image.fromarray(np.full((40, 50), 255, np.uint8)).save(films[3])
    changed = cache.open(films, ImageForm(32, 1))
    assert built == [films[3]] and changed[np.array([3])].max() == 1
    built.clear()
    films[0].rename(films[0].with_name("renamed.png"))
    films[0] = films[0].with_name("renamed.png")
    cache.open(films, ImageForm(32, 1))
    assert built == []  # the same content under another name
    cache.open(films, ImageForm(16, 1))
    assert sorted(built) == sorted(films)


def test_a_rewrite_within_one_clock_tick_is_noticed(tmp_path: Path) -> None:
    film = tmp_path / "x.png"
    cache = Cache(tmp_path / "cache")
    for value in (10, 20):
        Image.fromarray(np.full((20, 20), value, np.uint8)).save(film, compress_level=0)
        os.utime(film, ns=(now := time.time_ns() // 10**9 * 10**9, now))
        image = cache.open([film], ImageForm(16, 1))[np.array([0])]
        assert image.max() == pytest.approx(value / 255, abs=1e-4)


def test_another_preprocessing_version_builds_again(
    tmp_path: Path, built: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    films = _films(tmp_path / "films", 2)
    Cache(tmp_path / "cache").open(films, ImageForm(32, 1))
    monkeypatch.setattr(ImageForm, "VERSION", 999)
    Cache(tmp_path / "cache").open(films, ImageForm(32, 1))
    assert len(built) == 4


def test_all_bad_files_are_named_and_good_ones_kept(tmp_path: Path, built: list[Path]) -> None:
    films = _films(tmp_path / "films", 20)
    cache = Cache(tmp_path / "cache")
    for film in films[:11]:
        film.write_text("broken")
    films[11].unlink()
    with pytest.raises(DataError, match="12 of 20 files cannot be used") as caught:
        cache.open(films, ImageForm(32, 1))
    message = str(caught.value)
    assert sum(f"\n  {film}: " in message for film in films[:12]) == 10 and "and 2 more" in message
    assert not any(str(film) in message for film in films[12:])
    built.clear()
    cache.open(films[12:], ImageForm(32, 1))
    assert built == []
    with pytest.raises(DataError, match="correct the path"):
        cache.open([films[11]], ImageForm(32, 1))


def test_damaged_rows_are_found_and_built_again(tmp_path: Path, built: list[Path]) -> None:
    films = _films(tmp_path / "films")
    cache = Cache(tmp_path / "cache")
    expected = cache.open(films, ImageForm(32, 1))[np.arange(6)]
    [pixels] = (tmp_path / "cache").glob("*.pixels")
    content = bytearray(pixels.read_bytes())
    content[2 * 32 * 32 * 2 + 17] ^= 1
    pixels.write_bytes(bytes(content))
    built.clear()
    images = cache.open([*films, films[2]], ImageForm(32, 1))
    assert torch.equal(images[np.arange(6)], expected) and len(built) == 1
    assert torch.equal(images[np.array([6])][0], expected[2])
    built.clear()
    assert torch.equal(cache.open(films, ImageForm(32, 1))[np.arange(6)], expected) and built == []


def test_a_damaged_row_whose_file_is_gone_is_an_error(tmp_path: Path) -> None:
    films = _films(tmp_path / "films", 2)
    cache = Cache(tmp_path / "cache")
    images = cache.open(films, ImageForm(32, 1))
    [pixels] = (tmp_path / "cache").glob("*.pixels")
    pixels.write_bytes(b"\xff" * pixels.stat().st_size)
    films[1].unlink()
    with pytest.raises(DataError, match=str(films[1])):
        images[np.array([1])]


@pytest.mark.parametrize("damage", ["cut pixels", "cut index", "overwrite index", "remove pixels"])
def test_a_damaged_cache_heals(tmp_path: Path, damage: str) -> None:
    films = _films(tmp_path / "films")
    folder = tmp_path / "cache"
    expected = Cache(folder).open(films, ImageForm(32, 1))[np.arange(6)]
    [pixels] = folder.glob("*.pixels")
    index = folder / "index.sqlite"
    if damage == "cut pixels":
        os.truncate(pixels, 3 * 2048 + 100)
    elif damage == "cut index":
        os.truncate(index, index.stat().st_size // 2)
    elif damage == "overwrite index":
        index.write_bytes(b"\x00garbage" * 1000)
    else:
        pixels.unlink()
    for _ in range(2):
        assert torch.equal(Cache(folder).open(films, ImageForm(32, 1))[np.arange(6)], expected)


def test_no_file_name_is_stored_and_the_folder_is_private(tmp_path: Path) -> None:
    films = _films(tmp_path / "films")
    Cache(tmp_path / "cache").open(films, ImageForm(32, 1))
    for file in (tmp_path / "cache").iterdir():
        assert b"patient-" not in file.read_bytes()
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        Cache(tmp_path / "file").open(_films(tmp_path / "films", 1), ImageForm(32, 1))


def _open_cache(folder: Path, films: list[Path]) -> float:
    return float(Cache(folder).open(films, ImageForm(32, 1))[np.arange(len(films))].sum())


def _build_and_die(folder: Path, films: list[Path]) -> None:
    cache_module._BATCH_ROWS = 4
    Cache(folder).open(films, ImageForm(32, 1), progress=lambda done, _: os._exit(9) if done == 10 else None)


def test_two_processes_build_one_cache(tmp_path: Path) -> None:
    films = _films(tmp_path / "films", 30)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.starmap(_open_cache, [(tmp_path / "cache", films)] * 2)
    assert sums[0] == sums[1] == pytest.approx(_open_cache(tmp_path / "other", films), abs=1e-3)
    assert _row_count(tmp_path / "cache") == 30


def _row_count(folder: Path) -> int:
    with sqlite3.connect(folder / "index.sqlite") as index:
        return int(index.execute("SELECT COUNT(*) FROM rows").fetchone()[0])


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, built: list[Path]) -> None:
    films = _films(tmp_path / "films", 16)
    process = multiprocessing.get_context("spawn").Process(
        target=_build_and_die, args=(tmp_path / "cache", films)
    )
    process.start()
    process.join()
    assert process.exitcode == 9 and _row_count(tmp_path / "cache") == 8
    total = _open_cache(tmp_path / "cache", films)
    assert len(built) == 8
    assert total == pytest.approx(_open_cache(tmp_path / "other", films), abs=1e-3)
