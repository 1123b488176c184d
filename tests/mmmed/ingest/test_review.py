"""Images held for review wait for a human, whatever happens in between."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont

from mmmed.check import check
from mmmed.config import DataConfig, RunConfig
from mmmed.data.image_approvals import ImageApprovals, review_folder
from mmmed.data.manifest import Manifest, read_manifest
from mmmed.data.pixel_cache import Cache
from mmmed.deidentify import SiteKey
from mmmed.errors import DataError
from mmmed.ingest import IngestOptions, IngestReport, decide, deidentify, ingest, put_in_order
from mmmed.ingest import review as review_module
from mmmed.ingest.contact_sheets import masked_picture, waiting_pages
from mmmed.ingest.items import is_sample
from mmmed.ingest.options import TableOptions
from mmmed.ingest.review import Review
from mmmed.modalities import MODALITIES
from mmmed.modalities.image import ImageForm
from mmmed.paths import feature_cache
from mmmed.tasks import Classification
from tests.mmmed.dicom.files import dicom, save

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
KEY = SiteKey(bytes(range(32)))
OPTIONS = IngestOptions(
    site="north",
    workers=1,
    tables=(TableOptions(patient="pid", study="acc", text="note", keep=("finding",)),),
)
DATA = DataConfig(table="data.parquet")
TASK = Classification(label="finding")
MASKED = ("A", "B", "C")  # patients whose film has text burned in; D and E have none


def _film(seed: int, text: str = "") -> np.ndarray:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:256, :256] / 256
    image = Image.fromarray(
        (110 + 60 * np.sin(draw.uniform(3, 9) * x + draw.uniform(3, 9) * y)).astype(np.uint8)
    )
    ImageDraw.Draw(image).text((6, 6), text, fill=255, font=ImageFont.load_default(size=18))
    return np.asarray(image)


def _save(folder: Path, number: int, patient: str, seed: int | None = None) -> Path:
    text = f"Muster, {patient} 2.1.1930" if patient in MASKED else ""
    ds = dicom(
        _film(number if seed is None else seed, text), PatientID=patient, AccessionNumber=f"ACC{number}"
    )
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}.1", f"1.2.3.{number}.2"  # of one length
    return save(ds, folder / f"{patient}.dcm")


def _ingest(root: Path) -> IngestReport:
    return ingest([root / "in"], root / "data", key=KEY, options=OPTIONS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five patients with a film each; A has a note as well."""
    root = tmp_path_factory.mktemp("made")
    for number, patient in enumerate("ABCDE"):
        _save(root / "in", number, patient)
    rows = [f"{p},ACC{n},{n % 2},{'a cough' if p == 'A' else ''}" for n, p in enumerate("ABCDE")]
    (root / "in" / "t.csv").write_text("\n".join(["pid,acc,finding,note", *rows]))
    assert len(_ingest(root).review.waiting) == 3
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil: sources in ``in``, the data set in ``data``, and its review folder."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def _items(root: Path) -> dict[str, str]:
    """Patient -> name of the masked image, by the studies that ingest noted."""
    names = {KEY.pseudonym("patient", patient): patient for patient in MASKED}
    found = {}
    for line in (root / "data" / ".ingest" / "studies.jsonl").read_text().splitlines()[1:]:
        entry = json.loads(line)
        if (patient := names.get(entry["shared"]["patient_id"])) is not None:
            found[patient] = Path(entry["files"][0][0]).stem
    return found


def _named(root: Path) -> set[str]:
    """Images that the table names; all of them are there, and nothing else is."""
    names = set(pd.read_parquet(root / "data" / "data.parquet")["image"]) - {""}
    assert names == {f"images/{path.name}" for path in (root / "data" / "images").iterdir()}
    return names


def _manifest(root: Path, **data: object) -> Manifest:
    return read_manifest(root / "data", DATA.model_copy(update=data), TASK)


def _standing(review: Review) -> tuple[int, int, int]:
    return len(review.waiting), len(review.approved), len(review.rejected)


def test_nothing_masked_is_in_the_data_set_before_a_human_approves(root: Path) -> None:
    items = set(_items(root).values())
    assert len(_named(root)) == 2 and not items & {Path(name).stem for name in _named(root)}
    assert not any(item in path.name for item in items for path in (root / "data").rglob("*"))
    table = pd.read_parquet(root / "data" / "data.parquet")
    noted = table[table["patient_id"] == KEY.pseudonym("patient", "A")]
    assert len(table) == 3 and list(noted["text"]) == ["a cough"] and list(noted["image"]) == [""]
    manifest = _manifest(root)
    assert manifest.waiting == 3 and manifest.of_site("north").waiting == 3
    checked = check(root / "data", DATA, TASK)
    assert any(
        "wait for a human's approval" in one and "mmmed site images" in one for one in checked.warnings
    )
    assert ("images that wait for approval, in no record", "< 10") in checked.facts["Counts"]


def test_a_film_with_a_side_marker_alone_waits_and_keeps_it(tmp_path: Path) -> None:
    pixels = np.full((256, 256), 900, np.uint16)
    letter = Image.new("L", (256, 256))
    ImageDraw.Draw(letter).text((200, 20), "L", fill=255, font=ImageFont.load_default(size=30))
    pixels[np.asarray(letter) > 128] = 4000
    (tmp_path / "in").mkdir()
    save(dicom(pixels, PatientID="A"), tmp_path / "in" / "a.dcm")
    (item,) = _ingest(tmp_path).review.waiting
    shown = np.asarray(Image.open(masked_picture(tmp_path / "data", item)))
    assert (shown[np.asarray(letter) > 128] > 200).all()


def test_one_image_in_fifty_waits_though_nothing_was_seen() -> None:
    share = np.mean([is_sample(KEY.pseudonym("item", str(number))) for number in range(20_000)])
    assert 0.015 < share < 0.025


def test_what_waits_is_shown_and_the_next_command_is_told(root: Path) -> None:
    report = _ingest(root)
    summary = report.summary()
    assert "3 images held for review wait" in summary and f"approve-images {root / 'data'} --all" in summary
    folder = review_folder(root / "data")
    assert folder.parent == root and folder.stat().st_mode & 0o077 == 0
    page = (folder / "index.html").read_text()
    for item in _items(root).values():
        assert f"<code>{item}</code>" in page
        pair = Image.open(folder / "pairs" / f"{item}.jpg")
        red = np.asarray(pair.convert("RGB")).astype(int)
        assert ((red[..., 0] - red[..., 1] > 80).sum(axis=(0, 1)) > 100) and pair.width > 2 * 256
        assert (np.asarray(Image.open(folder / "masked" / f"{item}.png"))[10:20, 10:60] == 0).all()
    for secret in ("Muster", ".dcm", "ACC", "1.2.3", "script", "http:", "https:"):
        assert secret not in page
    assert "default-src 'none'" in page


def test_thousands_of_pairs_are_paged(root: Path) -> None:
    items = [f"{number:020x}" for number in range(130)]
    waiting_pages(root / "data", items)
    pages = [
        (review_folder(root / "data") / name).read_text()
        for name in ("index.html", "page-2.html", "page-3.html")
    ]
    assert [page.count("<figcaption>") for page in pages] == [60, 60, 10]
    assert all(items[n] in "".join(pages) for n in range(130)) and 'href="page-2.html"' in pages[0]
    waiting_pages(root / "data", items[:3])
    assert not list(review_folder(root / "data").glob("page-*.html"))


def test_decisions_are_recorded_and_the_table_follows(root: Path) -> None:
    items = _items(root)
    assert _standing(decide(root / "data", [items["A"]], [items["B"]], by="Dr. Look")) == (1, 1, 1)
    assert len(_named(root)) == 3 and f"images/{items['A']}.png" in _named(root)
    record = json.loads((root / "data" / ".ingest" / "approvals.json").read_text())["decisions"]
    assert [(one["item"], one["verdict"], one["by"]) for one in record] == [
        (items["A"], "approved", "Dr. Look"), (items["B"], "rejected", "Dr. Look"),
    ]  # fmt: skip
    assert all(len(one["sha256"]) == 64 and one["at"].endswith("+00:00") for one in record)
    left = {path.stem for path in review_folder(root / "data").rglob("*.*")}
    assert left == {items["C"], "index"}
    assert _manifest(root).waiting == 1
    assert _standing(decide(root / "data", [], rest=True)) == (0, 2, 1)
    assert not review_folder(root / "data").exists() and _manifest(root).waiting == 0
    done: list[int] = []
    ingest([root / "in"], root / "data", key=KEY, options=OPTIONS, progress=lambda now, _: done.append(now))
    assert done == [] and len(_named(root)) == 4 and f"images/{items['B']}.png" not in _named(root)


def test_bad_requests_decide_nothing(root: Path) -> None:
    items = _items(root)
    decide(root / "data", [], [items["B"]])
    for approve, reject, why in (
        ([items["A"], "stranger"], [], "no image held for review is named stranger"),
        ([items["A"]], [items["A"]], "approved and rejected at once"),
        ([items["A"], items["B"]], [], "rejected before"),
    ):
        with pytest.raises(DataError, match=why):
            decide(root / "data", approve, reject)
    waits = review_folder(root / "data") / "masked" / f"{items['A']}.png"
    waits.write_bytes((review_folder(root / "data") / "masked" / f"{items['C']}.png").read_bytes())
    with pytest.raises(DataError, match="not the picture that ingest made"):
        decide(root / "data", [items["A"]])
    waits.unlink()
    with pytest.raises(DataError, match="the picture is gone"):
        decide(root / "data", [], rest=True)
    assert len(_named(root)) == 2 and len(ImageApprovals.load(root / "data").decisions) == 1
    _ingest(root)
    assert _standing(decide(root / "data", [], rest=True)) == (0, 2, 1)
    with pytest.raises(DataError, match="`mmmed site ingest` made"):
        put_in_order(root / "in")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"version": 1', '"version": 2'),
        lambda text: text.replace("approved", "seen"),
        lambda text: text.replace('"sha256": "', '"sha256": "zz'),
        lambda text: "[]",
    ],
)
def test_a_record_that_cannot_be_read_approves_nothing(root: Path, spoil: Callable[[str], str]) -> None:
    decide(root / "data", [], rest=True)
    record = root / "data" / ".ingest" / "approvals.json"
    record.write_text(spoil(record.read_text()))
    for use in (
        lambda: _manifest(root),
        lambda: put_in_order(root / "data"),
        lambda: decide(root / "data", [], rest=True),
        lambda: _ingest(root),
    ):
        with pytest.raises(DataError, match="so nothing counts as approved"):
            use()
    assert not check(root / "data", DATA, TASK).trainable


def test_without_the_record_all_wait_again(root: Path) -> None:
    decide(root / "data", [], rest=True)
    assert len(_manifest(root).records) == 5
    (root / "data" / ".ingest" / "approvals.json").unlink()
    with pytest.raises(DataError, match="3 images held for review are in the table, but no record"):
        _manifest(root)
    assert _standing(put_in_order(root / "data")) == (3, 0, 0)
    assert len(_named(root)) == 2 and len(_manifest(root).records) == 3
    assert len(_ingest(root).review.waiting) == 3  # which draws the pairs again
    assert len(list((review_folder(root / "data") / "pairs").iterdir())) == 3


def test_a_table_of_ones_own_cannot_name_what_waits(root: Path) -> None:
    items = _items(root)
    decide(root / "data", [], rest=True)
    pd.read_parquet(root / "data" / "data.parquet").to_csv(root / "data" / "own.csv", index=False)
    decide(root / "data", [], [items["A"]])
    with pytest.raises(DataError, match="but no record says that a human approved"):
        _manifest(root, table="own.csv")
    table = pd.read_csv(root / "data" / "own.csv", dtype=str)
    table["image"] = f"./images/../../data-review/masked/{items['A']}.png"
    table.to_csv(root / "data" / "own.csv", index=False)
    with pytest.raises(DataError, match="leaves"):
        _manifest(root, table="own.csv")


def test_an_approval_is_of_one_content(root: Path) -> None:
    items = _items(root)
    decide(root / "data", [], rest=True)
    size = (root / "in" / "A.dcm").stat().st_size
    _save(root / "in", 0, "A", seed=77)  # the same object, of the same size, with other pixels
    assert (root / "in" / "A.dcm").stat().st_size == size
    report = _ingest(root)
    assert _standing(report.review) == (1, 2, 0) and report.review.waiting != (items["A"],)
    assert len(_named(root)) == 4
    os.utime(root / "in" / "B.dcm", ns=(1, 1))  # a copy with another time is the same picture
    shutil.copy(root / "in" / "C.dcm", root / "in" / "moved.dcm")
    (root / "in" / "C.dcm").unlink()
    assert _standing(_ingest(root).review) == (1, 2, 0) and len(_named(root)) == 4


def test_damaged_pictures_are_made_again_and_stay_decided(root: Path) -> None:
    items = _items(root)
    decide(root / "data", [items["A"]], [items["C"]])
    for path in (root / "data" / "images" / f"{items['A']}.png", masked_picture(root / "data", items["B"])):
        os.truncate(path, 100)
    report = _ingest(root)
    assert any(one.startswith("2 files of the data set") for one in report.warnings)
    assert _standing(report.review) == (1, 1, 1)
    for path in (root / "data" / "images" / f"{items['A']}.png", masked_picture(root / "data", items["B"])):
        assert Image.open(path).size == (256, 256) and path.stat().st_size > 100
    assert len(_named(root)) == 3 and not _ingest(root).warnings
    assert _standing(decide(root / "data", [items["B"]])) == (0, 2, 1)


def test_what_was_rejected_never_comes_back(root: Path) -> None:
    items = _items(root)
    decide(root / "data", [], rest=True)
    form = ImageForm(32, 1)
    manifest = _manifest(root)
    image = root / "data" / "images" / f"{items['A']}.png"
    config = RunConfig(data=DATA.model_copy(update={"image_size": 32, "text": ""}))
    MODALITIES["image"].open(manifest, config, root / "cache")
    kept = Cache(root / "cache").open([image], form)[np.array([0])].numpy()
    assert kept.any()
    stored = Cache(root / "cache").pixel_file(form).read_bytes()
    row = (kept * 65535).round().astype("<u2").tobytes()
    assert row in stored
    features = feature_cache() / "image-0.rows"  # wherever the images are kept
    features.parent.mkdir(parents=True, exist_ok=True)
    features.write_bytes(b"features")
    MODALITIES["image"].open(_manifest(root), config, root / "cache")
    assert features.exists()
    assert _standing(decide(root / "data", [], [items["A"]])) == (0, 2, 1)
    MODALITIES["image"].open(_manifest(root), config, root / "cache")
    assert row not in Cache(root / "cache").pixel_file(form).read_bytes() and not features.exists()
    os.utime(root / "in" / "A.dcm", ns=(1, 1))
    assert _standing(_ingest(root).review) == (0, 2, 1)
    assert len(_named(root)) == 4 and not review_folder(root / "data").exists()


def _die_at(step: int, root: Path, work: Callable[[], object]) -> None:
    """Do the work, and die at its n-th change of a file's name or removal."""
    left = [step]

    def deadly(real: Callable[..., object], *args: object, **options: object) -> object:
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1
        return real(*args, **options)

    for name in ("replace", "unlink", "rmdir", "write_text"):
        setattr(
            Path,
            name,
            functools.partialmethod(
                lambda self, *a, _real, **k: deadly(_real, self, *a, **k), _real=getattr(Path, name)
            ),
        )
    work()


def test_killed_at_any_step_nothing_unapproved_is_used_and_nothing_is_lost(
    made: Path, tmp_path: Path
) -> None:
    items = _items(made)
    codes = []
    for step in range(100):
        root = tmp_path / str(step)
        shutil.copytree(made, root)
        work = functools.partial(decide, root / "data", [items["A"]], [items["B"]])
        process = multiprocessing.get_context("fork").Process(target=_die_at, args=(step, root, work))
        process.start()
        process.join()
        codes.append(process.exitcode)
        names = set(pd.read_parquet(root / "data" / "data.parquet")["image"]) - {""}
        approvals = ImageApprovals.load(root / "data")
        assert not names & approvals.not_approved() and all(
            (root / "data" / name).is_file() for name in names
        )
        decided = len(approvals.decisions)
        assert decided in (0, 2)
        assert _standing(put_in_order(root / "data")) == ((1, 1, 1) if decided else (3, 0, 0))
        assert _standing(decide(root / "data", [items["A"]], [items["B"]])) == (1, 1, 1)
        assert len(_named(root)) == 3
        shutil.rmtree(root)
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and len(codes) > 10 and set(codes[:-1]) == {9}


def test_ingest_and_approval_wait_for_each_other(root: Path) -> None:
    _save(root / "in", 9, "F")
    told: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        for use in (put_in_order, functools.partial(decide, approve=[], rest=True)):
            with pytest.raises(DataError, match="another run is writing") as caught:
                use(root / "data")
            told.append(str(caught.value))

    ingest([root / "in"], root / "data", key=KEY, options=OPTIONS, progress=meanwhile)
    assert len(told) == 2


def test_a_masked_copy_that_is_ingested_waits_as_well(tmp_path: Path) -> None:
    """Its text is gone, so that the detector finds none; only the copy can say that no human has looked."""
    _save(tmp_path / "in", 0, "A")
    _save(tmp_path / "in", 3, "D")
    assert deidentify([tmp_path / "in"], tmp_path / "copies", key=KEY).masked == 1
    assert deidentify([tmp_path / "copies"], tmp_path / "again", key=KEY).written == 2
    report = ingest(
        [tmp_path / "again"], tmp_path / "data", key=KEY, options=IngestOptions(site="n", workers=1)
    )
    assert _standing(report.review) == (1, 0, 0) and len(_named(tmp_path)) == 1
    assert sum(
        "masked" in str(pydicom.dcmread(p).DeidentificationMethod)
        for p in (tmp_path / "again").rglob("*.dcm")
    )


def test_the_folder_for_review_keeps_what_is_not_its_own(root: Path) -> None:
    mine = review_folder(root / "data") / "mine.txt"
    mine.write_text("keep")
    decide(root / "data", [], rest=True)
    assert mine.read_text() == "keep" and not (mine.parent / "index.html").exists()
    assert review_module.review_folder(root / "data") == mine.parent


def test_where_images_cannot_wait_they_are_left_out_with_the_reason(tmp_path: Path) -> None:
    _save(tmp_path / "in", 0, "A")
    _save(tmp_path / "in", 3, "D")
    review_folder(tmp_path / "data").write_text("a file is in the way")
    report = ingest([tmp_path / "in"], tmp_path / "data", key=KEY, options=IngestOptions(site="n", workers=1))
    assert len(report.skipped) == 1 and "images held for review wait there" in report.skipped[0].reason
    assert len(_named(tmp_path)) == 1
