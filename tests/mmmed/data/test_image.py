from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import Dataset, Sequence
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from mmmed.data.image import read_image
from mmmed.dicom.file import open_dicom
from mmmed.dicom.pixels import frame, stored_values
from mmmed.errors import DataError
from tests.mmmed.dicom.files import CT, dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
PYDICOM_FILES = Path(pydicom.__file__).parent / "data"
RAMP = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 20


def _reference(ds: Dataset) -> np.ndarray:
    """pydicom's own grayscale pipeline, brought to [0, 1] by the output range that it documents."""
    voi = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    signed = ds.PixelRepresentation
    low, high = (
        (-(2 ** (ds.BitsStored - 1)), 2 ** (ds.BitsStored - 1) - 1) if signed else (0, 2**ds.BitsStored - 1)
    )
    low, high = (v * ds.get("RescaleSlope", 1) + ds.get("RescaleIntercept", 0) for v in (low, high))
    scaled = (voi - low) / (high - low)
    return 1 - scaled if ds.PhotometricInterpretation == "MONOCHROME1" else scaled


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope, intercept", [(1, 0), (0.5, -700), (2, 100)])
def test_window_agrees_with_the_reference(
    tmp_path: Path, interpretation: str, function: str, slope: float, intercept: float
) -> None:
    ds = dicom(
        RAMP, bits=12, PhotometricInterpretation=interpretation, VOILUTFunction=function,
        RescaleSlope=slope, RescaleIntercept=intercept,
        WindowCenter=[1000 * slope + intercept, 7], WindowWidth=[1500 * slope, 7],
    )  # fmt: skip
    image = read_image(save(ds, tmp_path / "x.dcm"), channels=1)
    assert image.shape == (1, 12, 16) and image.dtype == np.float32
    np.testing.assert_allclose(image[0], _reference(ds), atol=2e-4)


def test_voi_table_wins_over_window_and_clamps_at_its_ends(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [256, 500, 8]
    item.add_new("LUTData", "US", [255 - i for i in range(256)])
    ds = dicom(RAMP, bits=12, VOILUTSequence=Sequence([item]), WindowCenter=10, WindowWidth=10)
    image = read_image(save(ds, tmp_path / "x.dcm"), channels=1)[0]
    expected = (255 - np.clip(RAMP.astype(int) - 500, 0, 255)) / 255
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_modality_table_is_applied(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.add_new("LUTData", "US", [i * 2 for i in range(4096)])
    item.ModalityLUTType = "US"
    ds = dicom(RAMP, bits=12, ModalityLUTSequence=Sequence([item]), WindowCenter=1000, WindowWidth=2000)
    image = read_image(save(ds, tmp_path / "x.dcm"), channels=1)[0]
    expected = np.clip((RAMP * 2.0 - 999.5) / 1999 + 0.5, 0, 1)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_padding_is_black_whatever_its_sign_and_does_not_stretch(tmp_path: Path) -> None:
    stored = np.full((8, 8), 100, np.int16)
    stored[2:6, 2:6] = np.arange(16).reshape(4, 4) + 1000
    stored[:2] = -2000
    ds = dicom(stored, sop_class=CT, PhotometricInterpretation="MONOCHROME1")
    ds.add_new("PixelPaddingValue", "US", 63536)  # -2000 with the wrong sign
    image = read_image(save(ds, tmp_path / "x.dcm"), channels=1)[0]
    assert (image[:2] == 0).all() and image[7, 7] == 1 and image[5, 5] == 0


def test_shallow_images_without_window_keep_their_range_and_deep_ones_are_stretched(tmp_path: Path) -> None:
    shallow = read_image(save(dicom((RAMP // 40).astype(np.uint8)), tmp_path / "8.dcm"), channels=1)
    np.testing.assert_allclose(shallow[0], (RAMP // 40) / 255, atol=1e-6)
    deep = read_image(save(dicom(RAMP + 100, bits=12), tmp_path / "12.dcm"), channels=1)
    assert deep.min() == 0 and deep.max() == 1


def test_first_frame_colour_planes_and_luminance(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    planar = dicom(rgb, PlanarConfiguration=1)
    planar.PixelData = np.moveaxis(rgb, -1, 0).tobytes()
    colour = read_image(save(planar, tmp_path / "planar.dcm"), channels=3)
    np.testing.assert_allclose(colour, np.moveaxis(rgb, -1, 0) / 255, atol=1e-6)
    gray = read_image(tmp_path / "planar.dcm", channels=1)
    np.testing.assert_allclose(gray[0], rgb @ [0.299, 0.587, 0.114] / 255, atol=1e-5)
    frames = np.stack([np.full((4, 4), v, np.uint8) for v in (51, 200)])
    first = read_image(save(dicom(frames), tmp_path / "frames.dcm"), channels=3)
    assert first.shape == (3, 4, 4) and np.allclose(first, 0.2)


def test_per_frame_functional_groups_hold_window_and_rescale(tmp_path: Path) -> None:
    shared, rescale, window = Dataset(), Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
    window.WindowCenter, window.WindowWidth = 500, 1000
    shared.PixelValueTransformationSequence = Sequence([rescale])
    shared.FrameVOILUTSequence = Sequence([window])
    ds = dicom(RAMP[None], bits=12, SharedFunctionalGroupsSequence=Sequence([shared]))
    image = read_image(save(ds, tmp_path / "x.dcm"), channels=1)[0]
    np.testing.assert_allclose(image, np.clip((RAMP * 2.0 - 100 - 499.5) / 999 + 0.5, 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    "mode, suffix", [("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("RGB", "tif"), ("P", "png")]
)
def test_pillow_formats(tmp_path: Path, mode: str, suffix: str) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    saved = Image.fromarray(rgb).convert(mode)
    saved.save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}", channels=3)
    np.testing.assert_allclose(image, np.moveaxis(np.asarray(saved.convert("RGB")), -1, 0) / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_not_cut_to_eight(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / f"x.{suffix}")
    image = read_image(tmp_path / f"x.{suffix}", channels=1)[0]
    np.testing.assert_allclose(image, RAMP / RAMP.max(), atol=1e-6)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg", channels=1).shape == (1, 9, 6)


def _error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, channels=1)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_refusals_name_the_file_and_the_cause(tmp_path: Path) -> None:
    assert "no such file" in _error(tmp_path / "absent.png")
    assert "no such file" in _error(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    assert "not a readable" in _error(tmp_path / "text.png")
    (tmp_path / "text.dcm").write_text("no image at all")
    _error(tmp_path / "text.dcm")
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:-30])
    _error(tmp_path / "cut.png")
    short = dicom(RAMP)
    short.PixelData = short.PixelData[:-100]
    assert "decoded" in _error(save(short, tmp_path / "short.dcm"))
    without = dicom(RAMP)
    del without.PixelData
    assert "no pixel data" in _error(save(without, tmp_path / "without.dcm"))


def test_huge_declared_sizes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    assert "declares 65535 x 65535" in _error(
        save(dicom(RAMP, Rows=65535, Columns=65535), tmp_path / "huge.dcm")
    )
    png = bytearray()
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    png += b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(bytes(png))
    _error(tmp_path / "huge.png")
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(jpeg, "JPEG")
    code = bytearray(jpeg.getvalue())
    at = code.index(b"\xff\xc0")
    code[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    ds = dicom(np.zeros((16, 16), np.uint8))
    ds.PixelData = pydicom.encaps.encapsulate([bytes(code)])
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    assert "the compressed image 65535 x 65535" in _error(save(ds, tmp_path / "jpeg.dcm"))


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmmed.dicom.file.MAX_INFLATED_BYTES", 1 << 20)
    small, bomb = (dicom(np.zeros((n, n), np.uint8)) for n in (256, 2048))
    for ds in (small, bomb):
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert read_image(save(small, tmp_path / "small.dcm"), channels=1).shape == (1, 256, 256)
    assert "inflates" in _error(save(bomb, tmp_path / "bomb.dcm"))


def test_deep_recursion_is_refused(tmp_path: Path) -> None:
    ds = dicom(RAMP)
    inner = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"  # a sequence and its item, open
    path = save(ds, tmp_path / "deep.dcm")
    data = path.read_bytes()
    at = data.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(data[:at] + inner * 20_000 + data[at:])
    _error(path)


def _displayed(ds: Dataset) -> np.ndarray:
    """pydicom's own decoding and look-up tables of the first frame, brought to [0, 1] as `read_image` documents."""
    stored = ds.pixel_array if int(ds.get("NumberOfFrames") or 1) == 1 else ds.pixel_array[0]
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        table = apply_color_lut(stored, ds)
        return np.moveaxis(table, -1, 0) / np.iinfo(table.dtype).max
    if ds.SamplesPerPixel == 3:
        return np.moveaxis(stored, -1, 0) / (2.0**ds.BitsStored - 1)
    values = apply_modality_lut(stored, ds).astype(float)
    signed = int(ds.PixelRepresentation)
    ends = np.array([0.0, 2.0**ds.BitsStored - 1]) - signed * 2.0 ** (ds.BitsStored - 1)
    ends = ends * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))
    padded = stored == ds.PixelPaddingValue if "PixelPaddingValue" in ds else np.zeros(stored.shape, bool)
    if ds.get("VOILUTSequence"):
        values = apply_voi(values.astype(np.int64), ds).astype(float)
        ends = np.array([0.0, 2.0 ** int(ds.VOILUTSequence[0].LUTDescriptor[2]) - 1])
    elif ds.get("WindowWidth"):
        values = apply_windowing(apply_modality_lut(stored, ds), ds)
    elif ds.BitsStored > 8:
        ends = np.array([values[~padded].min(), values[~padded].max()])
    shown = (values - ends[0]) / max(ends[1] - ends[0], 1e-12)
    shown = 1 - shown if ds.PhotometricInterpretation == "MONOCHROME1" else shown
    return np.where(padded, 0, shown)[None]


def _reads_as_the_reference_or_refuses(path: Path) -> None:
    try:
        dataset = open_dicom(path)
        image = frame(dataset, path)
    except DataError as error:
        assert len(str(error).removeprefix(str(path))) > 10, "refused without a reason"
        with pytest.raises(Exception):  # noqa: B017 - refused for a reason: the reference fails, too
            pydicom.dcmread(path).pixel_array  # noqa: B018
        return
    reference = pydicom.dcmread(path, force=True)
    reference.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    np.testing.assert_array_equal(
        stored_values(dataset, path), reference.pixel_array[0] if int(reference.get("NumberOfFrames") or 1) > 1
        else reference.pixel_array,
    )  # fmt: skip
    # float32 against float64: half of a 16-bit step
    np.testing.assert_allclose(image, _displayed(reference), rtol=0, atol=1e-5)


PYDICOM_OBJECTS = sorted(p for p in (PYDICOM_FILES / "test_files").rglob("*") if p.is_file())


@pytest.mark.parametrize("path", PYDICOM_OBJECTS, ids=lambda p: str(p.relative_to(PYDICOM_FILES)))
def test_every_file_of_pydicom_is_read_as_its_decoder_reads_it_or_refused(path: Path) -> None:
    _reads_as_the_reference_or_refuses(path)


def test_every_file_of_the_corpus_is_read_as_the_decoder_reads_it_or_refused(medical_data: Path) -> None:
    files = [path for path in (medical_data / "dicom_mini" / "corpus").iterdir() if path.is_file()]
    assert len(files) == 40
    for path in files:
        _reads_as_the_reference_or_refuses(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = data.draw(st.sampled_from(["MR_small_RLE", "image_dfl", "SC_rgb_small_odd_jpeg", "CT_small",
                                        "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"]))  # fmt: skip
    content = bytearray((PYDICOM_FILES / "test_files" / f"{source}.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.dcm"
    path.write_bytes(bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))]))
    try:
        image = read_image(path, channels=1)
    except DataError:
        return
    assert image.dtype == np.float32 and np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


def test_the_largest_numbers_are_stretched_as_any_others(tmp_path: Path) -> None:
    huge = np.array([[-3e38, 0.0], [3e38, np.inf]], np.float32).repeat(8, 0).repeat(8, 1)
    Image.fromarray(huge).save(tmp_path / "huge.tiff")
    read = read_image(tmp_path / "huge.tiff", channels=1)[0, ::8, ::8]
    np.testing.assert_allclose(read, [[0, 0.5], [1, 0]], atol=1e-6)
