from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmed.data import volume as volume_module
from mmmed.data.pixel_cache import Cache
from mmmed.errors import DataError
from mmmed.modalities.volume import VolumeForm

FIT = VolumeForm(size=24, spacing=0.0, window=(0.0, 1.0))


def write(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def ball(spacing: tuple[float, float, float], radius: float = 20.0, extent: float = 64.0) -> np.ndarray:
    """1 in a ball in the middle of a field of `extent` mm, 0 around it."""
    axes = [(np.arange(round(extent / mm)) + 0.5) * mm - extent / 2 for mm in spacing]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return (x**2 + y**2 + z**2 < radius**2).astype(np.float32)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 4), (2, 1, 0.8)])
@pytest.mark.parametrize("fixed", [0.0, 2.0])
def test_a_ball_is_a_ball_whatever_the_voxels(
    tmp_path: Path, spacing: tuple[float, float, float], fixed: float
) -> None:
    path = write(tmp_path / "ball.nii.gz", ball(spacing), np.diag([*spacing, 1]))
    size = 32
    seen = VolumeForm(size, fixed, (0.0, 1.0)).build(path)
    assert seen.shape == (1, size, size, size) and seen.dtype == np.float32
    np.testing.assert_allclose(seen[0], ball((2, 2, 2)), atol=0.75)
    assert np.abs(seen[0] - ball((2, 2, 2))).mean() < 0.02
    assert seen.mean() == pytest.approx(4 / 3 * np.pi * 20**3 / 64**3, rel=0.02)


def test_the_scale_is_declared_or_fits_each_volume(tmp_path: Path) -> None:
    large = write(tmp_path / "large.nii", ball((2, 2, 2), 40, 128), np.diag([2, 2, 2, 1]))
    fitted, declared = VolumeForm(32, 0.0, (0.0, 1.0)), VolumeForm(32, 2.0, (0.0, 1.0))
    np.testing.assert_allclose(fitted.build(large).mean(), ball((2, 2, 2)).mean(), rtol=0.02)
    np.testing.assert_allclose(declared.build(large)[0], ball((2, 2, 2), 40), atol=0.75)
    small = write(tmp_path / "small.nii", np.ones((8, 8, 8), np.float32), np.diag([2, 2, 2, 1]))
    seen = declared.build(small)[0]
    assert seen[12:20, 12:20, 12:20].min() == 1 and seen.sum() == 8**3


def test_axes_run_to_superior_anterior_right_however_the_file_stores_them(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    values = draw.random((10, 12, 14)).astype(np.float32)  # right, anterior, superior
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-3, 40, 7)
    expected = FIT.build(write(tmp_path / "ras.nii", values, affine))
    assert expected.shape[1:] == (24, 24, 24)
    image = nibabel.Nifti1Image(values, affine)
    for number, axes in enumerate(["LPS", "SAR", "PIR", "AIL"]):
        turned = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(axes)
        )
        nibabel.save(image.as_reoriented(turned), tmp_path / f"{number}.nii.gz")
        np.testing.assert_allclose(FIT.build(tmp_path / f"{number}.nii.gz"), expected, atol=1e-6)
    right_half = np.zeros_like(values)
    right_half[5:] = 1
    seen = FIT.build(write(tmp_path / "right.nii", right_half, affine))[0]
    assert seen[..., 12:].sum() > 0.9 * seen.sum()
    top = np.zeros_like(values)
    top[:, :, 7:] = 1
    seen = FIT.build(write(tmp_path / "top.nii", top, affine))[0]
    assert seen[12:].sum() > 0.9 * seen.sum()


def test_shrinking_averages_instead_of_skipping_slices(tmp_path: Path) -> None:
    stripes = np.zeros((160, 160, 160), np.uint8)
    stripes[:, :, ::8] = 100
    seen = VolumeForm(16, 0.0, (0.0, 100.0)).build(write(tmp_path / "x.nii", stripes))
    np.testing.assert_allclose(seen[0, 2:-2], 1 / 8, atol=0.04)


@settings(max_examples=20, deadline=None)
@given(low=st.floats(-2000, 0), width=st.floats(1, 3000), value=st.floats(-5000, 5000))
def test_a_window_is_the_same_for_every_volume(
    tmp_path_factory: pytest.TempPathFactory, low: float, width: float, value: float
) -> None:
    path = write(tmp_path_factory.mktemp("v") / "v.nii", np.full((3, 4, 5), value, np.float32))
    seen = VolumeForm(16, 4.0, (low, low + width)).build(path)
    expected = np.clip((value - low) / width, 0, 1)
    assert seen.max() == pytest.approx(expected, abs=1e-3) and seen.min() == 0


def test_without_a_window_each_volume_has_its_own_range(tmp_path: Path) -> None:
    form = VolumeForm(16, 0.0, ())
    values = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    one, other = write(tmp_path / "1.nii", values), write(tmp_path / "2.nii", 900 * values - 30)
    np.testing.assert_allclose(form.build(one), form.build(other), atol=1e-5)
    assert form.build(one).min() == 0 and form.build(one).max() == 1
    assert form.build(write(tmp_path / "3.nii", np.full((9, 9, 9), 7, np.int16))).max() == 0


@pytest.mark.parametrize("window", [(), (0.0, 100.0)])
def test_voxels_that_are_no_number_are_dark(tmp_path: Path, window: tuple[float, ...]) -> None:
    values = np.random.default_rng(0).uniform(20, 100, (20, 20, 20)).astype(np.float32)
    values[:, :, :8] = np.nan
    values[0] = np.inf
    values[1] = -np.inf
    seen = VolumeForm(20, 0.0, window).build(write(tmp_path / "x.nii.gz", values))[0]
    assert np.isfinite(seen).all()
    assert seen[:7].max() < 0.25 and seen[9:, :, 3:].mean() > 0.3


def test_a_volume_read_in_slabs_is_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (30, 20, 17)).astype(np.int16)
    path = write(tmp_path / "x.nii.gz", values, np.diag([1, 1.5, 3, 1]))
    form = VolumeForm(24, 2.0, (-500.0, 500.0))
    expected = form.build(path)
    monkeypatch.setattr(volume_module, "_SLAB_VOXELS", 1300)
    np.testing.assert_array_equal(form.build(path), expected)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    good = write(folder / "good.nii.gz", np.zeros((4, 4, 4), np.int16))
    raw = write(folder / "raw.nii", np.zeros((4, 4, 4), np.int16)).read_bytes()
    cut, noise, text = folder / "cut.nii.gz", folder / "noise.nii", folder / "text.nii.gz"
    cut.write_bytes(good.read_bytes()[:60])
    noise.write_bytes(os.urandom(1000))
    text.write_text("not a volume")
    huge = bytearray(raw)
    huge[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    (folder / "huge.nii").write_bytes(huge)
    with gzip.open(folder / "huge.nii.gz", "wb") as file:
        file.write(huge)
    flat = bytearray(raw)
    flat[280:328] = bytes(48)  # the affine
    (folder / "flat.nii").write_bytes(flat)
    (folder / "short.nii").write_bytes(raw[:-40])
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return {
        "absent": (folder / "absent.nii", "no such file"),
        "2D": (write(folder / "2d.nii", np.zeros((9, 9), np.int16)), "9 x 9 voxels"),
        "one slice": (write(folder / "1.nii", np.zeros((9, 9, 1), np.int16)), "Single slices are images"),
        "in time": (write(folder / "4d.nii", np.zeros((4, 4, 4, 3), np.int16)), "take one volume"),
        "huge": (folder / "huge.nii", "at most"),
        "huge, packed": (folder / "huge.nii.gz", "at most"),
        "all NaN": (write(folder / "nan.nii", np.full((5, 5, 5), np.nan, np.float32)), "finite"),
        "colour": (write(folder / "rgb.nii", colour), "one real number"),
        "complex": (write(folder / "c.nii", np.zeros((4, 4, 4), np.complex64)), "one real number"),
        "cut": (cut, "not a readable NIfTI"),
        "short": (folder / "short.nii", "not a readable NIfTI"),
        "noise": (noise, "not a readable NIfTI"),
        "text": (text, "not a readable NIfTI"),
        "flat": (folder / "flat.nii", "expected positive sizes"),
    }  # fmt: skip


def test_what_is_no_volume_is_refused_with_the_file_and_the_reason(tmp_path: Path) -> None:
    for name, (path, words) in bad_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            FIT.build(path)
        assert str(path) in str(caught.value) and words in str(caught.value), (name, str(caught.value))


def test_a_trailing_axis_of_one_is_no_fourth_dimension(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    expected = FIT.build(write(tmp_path / "3.nii", values))
    np.testing.assert_array_equal(FIT.build(write(tmp_path / "4.nii", values[..., None])), expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_mutated_volume_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(write(folder / "x.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    (folder / "x.nii").write_bytes(content)
    try:
        seen = VolumeForm(16, 0.0, ()).build(folder / "x.nii")
    except DataError as error:
        assert "x.nii" in str(error)
    else:
        assert seen.shape == (1, 16, 16, 16) and np.isfinite(seen).all()
        assert seen.min() >= 0 and seen.max() <= 1


def test_a_changed_file_option_or_version_builds_just_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [
        write(tmp_path / f"{n}.nii", np.random.default_rng(n).random((8, 8, 8)).astype(np.float32))
        for n in range(3)
    ]
    for path in paths:
        os.utime(path, (1e9, 1e9))
    opened: list[Path] = []
    real = volume_module.open_volume

    def counted(path: Path) -> Any:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(volume_module, "open_volume", counted)
    cache = Cache(tmp_path / "cache")

    def built(form: VolumeForm) -> list[Path]:
        opened.clear()
        rows = cache.open(paths, form)
        for n, path in enumerate(paths):
            found = rows[np.array([n])][0].numpy()
            np.testing.assert_allclose(found, form.build(path), atol=1e-4)
            opened.remove(path)
        return sorted(opened)

    assert built(FIT) == paths
    assert built(FIT) == []
    write(paths[1], np.ones((8, 8, 8), np.float32))
    assert built(FIT) == [paths[1]]
    for other in (VolumeForm(16, 0.0, (0.0, 1.0)), VolumeForm(24, 1.0, (0.0, 1.0)), VolumeForm(24, 0.0, ())):
        assert built(other) == paths
    monkeypatch.setattr(VolumeForm, "VERSION", 999)
    assert built(FIT) == paths


def test_damaged_voxels_are_built_again(tmp_path: Path) -> None:
    path = write(tmp_path / "x.nii", np.random.default_rng(0).random((9, 9, 9)).astype(np.float32))
    expected = Cache(tmp_path / "cache").open([path], FIT)[np.array([0])]
    [pixels] = (tmp_path / "cache").glob("*.pixels")
    content = bytearray(pixels.read_bytes())
    content[1001] ^= 1
    pixels.write_bytes(content)
    assert (Cache(tmp_path / "cache").open([path], FIT)[np.array([0])] == expected).all()


def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    empty = write(tmp_path / "x.nii", np.zeros((512, 512, 2), np.int16)).read_bytes()[:352]
    header = bytearray(empty)
    header[46:48] = (200).to_bytes(2, "little")
    with gzip.open(tmp_path / "x.nii.gz", "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(200):
            file.write(bytes(512 * 512 * 2))
    tracemalloc.start()  # follows numpy's arrays
    try:
        FIT.build(tmp_path / "x.nii.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80e6  # 105 MB as stored, 210 MB as float32
