"""The generated hospitals: real files, the same bytes for a seed, and as hard as documented."""

from __future__ import annotations

import hashlib
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import regex
from scipy.signal import find_peaks
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmmed import demo
from mmmed.config import DataConfig
from mmmed.data.image import preprocess, read_image
from mmmed.data.manifest import read_manifest
from mmmed.data.sound import read_sound
from mmmed.data.waveform import open_waveform
from mmmed.demo import hospitals
from mmmed.demo import note_writing as notes
from mmmed.demo.dicom import Encoding, StudyInfo, encode, make_uid, write_film
from mmmed.demo.films import Look, draw_anatomy, draw_film, expose
from mmmed.demo.recordings import Devices, write_ecg, write_sound
from mmmed.errors import DataError
from mmmed.ingest.sections import finding_stated
from mmmed.tasks import Classification, Multilabel, Ordinal, Regression, Several, Survival

TINY = 0.03
MEASURED = 0.4  # enough patients for loose bounds on difficulty


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.generate(tmp_path_factory.mktemp("demo") / "tiny", scale=TINY)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.generate(tmp_path_factory.mktemp("demo") / "measured", scale=MEASURED)


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "data.csv", keep_default_na=False)


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _films(folder: Path) -> Iterator[tuple[pd.Series, pydicom.Dataset]]:
    for _, row in _table(folder).iterrows():
        yield row, pydicom.dcmread(folder / row["image"])


# Files


def test_same_seed_same_bytes_and_another_seed_others(tiny: Path, tmp_path: Path) -> None:
    again = demo.generate(tmp_path / "again", scale=TINY)
    other = demo.generate(tmp_path / "other", scale=TINY, seed=1)
    assert _digests(again) == _digests(tiny)
    assert not set(_digests(other).values()) & set(_digests(tiny).values())


def test_smaller_scale_holds_the_first_patients(tiny: Path, tmp_path: Path) -> None:
    smaller = demo.generate(tmp_path / "smaller", scale=0.02)
    counts = _table(smaller).groupby("site")["patient_id"].nunique()
    assert counts["northgate"] == 14
    assert counts["old-mill"] == 8  # never fewer
    assert _table(tiny).groupby("site")["patient_id"].nunique()["northgate"] == 21
    images = {name: digest for name, digest in _digests(smaller).items() if name.endswith(".dcm")}
    assert images.items() <= _digests(tiny).items()


def test_enters_by_the_door_of_real_data(tiny: Path) -> None:
    manifest = read_manifest(tiny, DataConfig(), Classification())
    assert manifest.sites == sorted(h.name for h in demo.HOSPITALS)
    assert len(manifest.records) == len(_table(tiny))


def test_table_and_files_belong_together(tiny: Path) -> None:
    table = _table(tiny)
    assert tuple(table.columns) == demo.COLUMNS
    assert table["study_id"].is_unique
    assert sorted(table["image"]) == sorted(str(p.relative_to(tiny)) for p in tiny.rglob("*.dcm"))
    assert set(table["finding"]) == {0, 1}
    assert table["age"].between(18, 105).all() and set(table["sex"]) == {"F", "M"}


def test_every_task_has_labels_that_follow_from_the_finding(tiny: Path) -> None:
    table = _table(tiny)
    for name in ("consolidation", "effusion", "nodules"):
        looked = table[table[name] != ""]
        assert 0 < len(looked) < len(table) and set(looked[name].astype(float)) == {0, 1}
        assert (looked["finding"] >= looked[name].astype(float)).all()
    assert table["severity"].between(0, 10).all() and set(table["grade"]) == {0, 1, 2, 3}
    assert (table["days"] >= 0).all() and set(table["event"]) == {0, 1}
    for column in ("severity", "grade"):  # something to learn, and no way to read the finding off
        assert 0.65 < roc_auc_score(table["finding"], table[column]) < 0.95
    for task in (Multilabel(), Ordinal(), Regression(), Survival(), Several()):
        assert len(read_manifest(tiny, DataConfig(), task).records) > 0.9 * len(table)


def test_one_to_four_studies_and_one_hospital_a_patient(measured: Path) -> None:
    patients = _table(measured).groupby("patient_id")
    assert set(patients.size()) == {1, 2, 3, 4}
    assert (patients["site"].nunique() == 1).all()
    assert (patients["sex"].nunique() == 1).all()


def test_films_are_valid_dicom(tiny: Path) -> None:
    uids: Counter[str] = Counter()
    for row, film in _films(tiny):
        assert film.PatientID == row["patient_id"]
        assert film.AccessionNumber == row["study_id"]
        assert film.InstitutionName == row["site"]
        assert film.PatientAge == f"{row['age']:03d}Y" and film.PatientSex == row["sex"]
        assert film.file_meta.MediaStorageSOPInstanceUID == film.SOPInstanceUID
        for uid in (film.SOPInstanceUID, film.StudyInstanceUID, film.SeriesInstanceUID):
            assert uid.is_valid and len(uid) <= 64
            uids[uid] += 1
        assert float(film.PixelSpacing[0]) == pytest.approx(float(film.PixelSpacing[1]))
        assert 1.5 < float(film.PixelSpacing[0]) < 6
        assert film.pixel_array.shape == (film.Rows, film.Columns)
        assert int(film.pixel_array.max()) < 2**film.BitsStored
        assert film.HighBit == film.BitsStored - 1
    assert set(uids.values()) == {1}


def test_encodings_and_sizes_vary_as_between_hospitals(tiny: Path) -> None:
    seen = {
        (
            film.PhotometricInterpretation,
            film.BitsStored,
            film.BitsAllocated,
            film.Modality,
            film.pixel_array.shape,
        )
        for _, film in _films(tiny)
    }
    photometric, stored, allocated, modality, shapes = (set(values) for values in zip(*seen, strict=True))
    assert photometric == {"MONOCHROME1", "MONOCHROME2"}
    assert stored == {8, 12, 16} and allocated == {8, 16}
    assert modality == {"CR", "DX"}
    assert len(shapes) >= 4


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("modality", ["CR", "DX"])
def test_monochrome1_shows_the_same_film(bits: int, modality: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = draw_film(draw_anatomy(rng, "F", 60), rng, strength=1.0, shape=(63, 61)).film  # odd: padded bytes
    info = _info()
    shown = []
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        path = tmp_path / f"{photometric}.dcm"
        write_film(path, image, Encoding(modality, photometric, bits), info, seed=0)  # type: ignore[arg-type]
        shown.append(read_image(path, channels=1)[0])
    assert np.abs(shown[0] - shown[1]).max() <= 2.5 / (2**bits - 1)
    inside = (image > 0.1) & (image < 0.9)  # within the window
    expected = (image - 0.05) / 0.9  # window centre 0.5, width 0.9
    assert np.abs(shown[1] - expected)[inside].max() <= 3 / (2**bits - 1) + 1e-3


def test_monochrome1_stores_black_as_the_highest_value() -> None:
    ramp = np.array([[0.0, 1.0]], dtype=np.float32)
    assert encode(ramp, Encoding("CR", "MONOCHROME1", 12)).tolist() == [[4095, 0]]
    assert encode(ramp, Encoding("CR", "MONOCHROME2", 12)).tolist() == [[0, 4095]]


def _info() -> StudyInfo:
    rng = np.random.default_rng(0)
    return next(hospitals.studies(demo.HOSPITALS[0], 0, seed=int(rng.integers(9)), patients=1)).info


def test_uids_follow_their_names() -> None:
    assert make_uid("a", "b") == make_uid("a", "b")
    assert make_uid("a", "b") != make_uid("ab")


# Writing whole or not at all


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def interrupt(path: Path, *rest: object) -> None:
        written.append(path)
        path.write_bytes(b"half")
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_film", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.generate(tmp_path / "demo", scale=TINY)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


def test_processes_at_once_agree(tiny: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        folders = pool.starmap(_dataset, [(tmp_path, TINY)] * 2, chunksize=1)
    assert folders[0] == folders[1]
    assert [path.name for path in tmp_path.iterdir()] == [folders[0].name]
    assert _digests(folders[0]) == _digests(tiny)


def _dataset(cache: Path, scale: float) -> Path:
    return demo.dataset(cache, scale=scale)


def test_a_faster_process_wins(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes between our look and our rename."""
    folder, write, meanwhile = tmp_path / "demo", demo._write, []

    def slower(draft: Path, seed: int, scale: float, *further: bool) -> None:
        if not meanwhile:
            meanwhile.append(True)
            demo.generate(folder, seed=seed, scale=scale)
        write(draft, seed, scale, *further)

    monkeypatch.setattr(demo, "_write", slower)
    assert demo.generate(folder, scale=TINY) == folder
    assert meanwhile and [p.name for p in tmp_path.iterdir()] == ["demo"]
    assert _digests(folder) == _digests(tiny)


def test_second_call_finds_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = demo.dataset(tmp_path, scale=TINY)
    monkeypatch.setattr(demo, "_write", lambda *_: pytest.fail("generated twice"))
    assert demo.dataset(tmp_path, scale=TINY) == first


def test_cache_keeps_seeds_and_scales_apart(tmp_path: Path) -> None:
    names = {demo.dataset(tmp_path, seed=s, scale=c).name for s, c in [(0, 0.01), (1, 0.01), (0, 0.012)]}
    assert len(names) == 3


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("mine")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        demo.generate(tmp_path, scale=TINY)
    assert (tmp_path / "data.csv").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 101.0])
def test_scale_out_of_range(scale: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scale"):
        demo.generate(tmp_path / "demo", scale=scale)
    assert list(tmp_path.iterdir()) == []


def test_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="seed"):
        demo.generate(tmp_path / "demo", seed=-1)


# Films


def test_opacity_grows_with_strength() -> None:
    """Same pose, same place: only the opacity differs, and only by making lungs denser."""
    for seed in range(12):
        anatomy = draw_anatomy(np.random.default_rng(seed), "M", 50)
        clear, half, full = (
            draw_film(anatomy, np.random.default_rng(seed), strength=s, shape=(64, 64))[0]
            for s in (0, 0.5, 1)
        )
        assert (half - clear).min() > -1e-5 and (full - half).min() > -1e-5
        assert 1.5 * (half - clear).sum() < (full - clear).sum()
        assert (full - clear).max() > 0.2
        assert full.dtype == np.float32


def test_same_patient_looks_alike() -> None:
    """Two studies of one patient differ less than studies of two patients."""
    rng = np.random.default_rng(0)
    people = [draw_anatomy(rng, "FM"[i % 2], 60) for i in range(12)]
    first, second = (
        np.array([draw_film(p, rng, strength=0, shape=(64, 64))[0] for p in people]) for _ in range(2)
    )
    distance = np.abs(first[:, None] - second[None]).mean((2, 3))
    own = np.diag(distance).mean()
    others = distance[~np.eye(len(people), dtype=bool)].mean()
    assert own < 0.9 * others


def test_scanner_leaves_its_marks() -> None:
    rng = np.random.default_rng(0)
    film = draw_film(draw_anatomy(rng, "M", 50), rng, strength=0, shape=(64, 64)).film
    framed = expose(film, Look((64, 64), border=(0.1, 0.1), border_grey=1.0), rng)
    assert (framed[:6] == 1).all() and (framed[:, -6:] == 1).all() and (framed[20:40, 20:40] < 1).any()
    sharp = expose(film, Look((64, 64), blur=0, noise=0), rng)
    soft = expose(film, Look((64, 64), blur=3, noise=0), rng)
    assert np.abs(np.diff(soft)).mean() < 0.8 * np.abs(np.diff(sharp)).mean()


# Notes


def test_one_hospital_sends_no_notes(tiny: Path) -> None:
    share = (_table(tiny)["text"] != "").groupby(_table(tiny)["site"]).mean()
    assert share.to_dict() == {"northgate": 1.0, "harbour": 1.0, "meadow": 0.0, "old-mill": 1.0}


def test_notes_never_name_the_label(measured: Path) -> None:
    text = " ".join(_table(measured)["text"]).lower()
    for word in ("finding", "label", "positive", "negative", "abnormal", "diagnos", "class", "target"):
        assert word not in text
    assert "{" not in text


def test_no_word_settles_it(measured: Path) -> None:
    table = _table(measured)
    for _, part in table[table["text"] != ""].groupby("site"):
        counter = CountVectorizer(binary=True, min_df=20)
        present = counter.fit_transform(part["text"]).toarray()
        label = part["finding"].to_numpy()
        for name, column in zip(counter.get_feature_names_out(), present.T, strict=True):
            ill, well = ((column[label == y].sum() + 1) / ((label == y).sum() + 2) for y in (1, 0))
            assert 1 / 8 < ill / well < 8, name  # the likelihood ratio that the word carries
            assert 0.25 < roc_auc_score(label, column) < 0.75, name


def test_notes_deny_hedge_abbreviate_and_slip(measured: Path) -> None:
    table = _table(measured)
    by_site = table.groupby("site")["text"].apply(list)
    for site in ("northgate", "harbour", "old-mill"):
        denied = [bool(re.search(r"\b(no|not|denies|nil)\b", t, re.IGNORECASE)) for t in by_site[site]]
        assert np.mean(denied) > 0.5
        effusion = [t for t in by_site[site] if "effusion" in t]
        assert effusion and all("no effusion" in t for t in effusion)
    assert any("unlikely" in t for t in by_site["northgate"])
    assert any("SOB" in t for t in by_site["old-mill"])
    fields = r"Age \d\d\d?\. Reason: .* Symptoms: .* Examination: .* Bloods: .* History: "
    assert np.mean([bool(re.match(fields, t)) for t in by_site["harbour"]]) > 0.8  # a slip breaks some
    lengths = {site: np.mean([len(t.split()) for t in by_site[site]]) for site in by_site.index}
    assert lengths["old-mill"] < 20 < lengths["harbour"] < lengths["northgate"] <= 60
    known = {w for phrase in demo.public_text() for w in re.findall(r"[a-z]+", phrase.lower())}
    said = Counter(w for t in by_site["old-mill"] for w in re.findall(r"[a-z]{5,}", t.lower()))
    slips = sum(n for w, n in said.items() if w not in known)
    assert 0.005 < slips / sum(said.values()) < 0.06


def test_public_text_covers_every_word(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_SLIPS", dict.fromkeys(notes._SLIPS, 0.0))
    public = demo.public_text()
    assert len(public) == len(set(public)) and "{" not in "".join(public)
    known = {w for phrase in public for w in re.findall(r"\w+", phrase.lower())}
    rng = np.random.default_rng(0)
    for style in notes._SLIPS:
        for i in range(300):
            note = notes.write_note(style, rng.uniform(-1, 1), 18 + i % 78, "FM"[i % 2], rng).text
            assert set(re.findall(r"\w+", note.lower())) <= known


def test_a_note_tells_which_of_its_words_are_of_the_illness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "_SLIPS", dict.fromkeys(notes._SLIPS, 0.0))
    topics = [side for topic in (*notes.TELLING, notes.REASONS) for side in (topic.present, topic.absent)]
    rng = np.random.default_rng(0)
    for style in notes._SLIPS:
        telling = {
            w for side in topics for phrase in side[style] for w in re.findall(r"[a-z]+", phrase.lower())
        }
        other = {w for phrase in notes.DISTRACTORS[style] for w in re.findall(r"[a-z]+", phrase.lower())}
        for _ in range(100):
            note = notes.write_note(style, rng.uniform(-1, 1), 50, "F", rng)
            words = note.text.split(" ")
            assert len(words) == len(note.telling) and 0 < sum(note.telling) < len(words)
            for word, tells in zip(words, note.telling, strict=True):
                plain = set(re.findall(r"[a-z]+", word.lower())) - {"she", "her"}
                assert not tells or plain <= telling
                assert tells or not plain & (telling - other - {"year", "old", "woman"})


def test_a_film_tells_where_its_opacity_is() -> None:
    for seed in range(6):
        plain, none = (
            draw_film(
                draw_anatomy(np.random.default_rng(seed), "F", 60),
                np.random.default_rng(seed),
                strength=strength,
                shape=(48, 48),
            )
            for strength in (1.0, 0.0)
        )
        changed = np.abs(plain.film - none.film)
        assert not none.place.any() and plain.place.max() <= 1
        assert (changed[plain.place < 1e-3] < 1e-3).all()
        np.testing.assert_allclose(changed, 0.45 * plain.place, atol=0.02)


# Labels and difficulty. Bounds are loose, for fewer patients and cheaper learners than docs/demo-data.md has.


def test_prevalence_by_hospital(measured: Path) -> None:
    shares = _table(measured).groupby("site")["finding"].mean()
    for hospital in demo.HOSPITALS:
        assert shares[hospital.name] == pytest.approx(hospital.prevalence, abs=0.12)
    assert shares["northgate"] < shares["old-mill"] < shares["harbour"] < shares["meadow"]


def test_studies_of_a_patient_tend_to_agree(measured: Path) -> None:
    table = _table(measured)
    residual = table["finding"] - table.groupby("site")["finding"].transform("mean")
    pairs = [
        (a, b) for _, r in residual.groupby(table["patient_id"]) for a, b in zip(r, r.iloc[1:], strict=False)
    ]
    assert 0.03 < np.corrcoef(np.array(pairs).T)[0, 1] < 0.6


def _within(table: pd.DataFrame, score: np.ndarray) -> float:
    """AUROC within sites, weighted by their records."""
    scored = table.assign(score=score)
    parts = [(len(p), roc_auc_score(p["finding"], p["score"])) for _, p in scored.groupby("site")]
    return float(np.average([a for _, a in parts], weights=[n for n, _ in parts]))


def _held_out(learner: object, x: object, table: pd.DataFrame) -> np.ndarray:
    folds = GroupKFold(4)
    return cross_val_predict(
        learner, x, table["finding"], groups=table["patient_id"], cv=folds, method="decision_function"
    )


@pytest.fixture(scope="module")
def scores(measured: Path) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Records with notes, and held-out scores of a linear image learner and of a word learner."""
    table = _table(measured)
    table = table[table["text"] != ""].reset_index(drop=True)
    films = np.stack([preprocess(read_image(measured / p, channels=1), 24).ravel() for p in table["image"]])
    mirrored = films.reshape(-1, 24, 24)[:, :, ::-1].reshape(len(films), -1)
    films = np.concatenate([films + mirrored, np.abs(films - mirrored)], axis=1)
    image = _held_out(
        make_pipeline(StandardScaler(), PCA(60, random_state=0), LogisticRegression(C=0.05, max_iter=2000)),
        films,
        table,
    )
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3)
    text = _held_out(make_pipeline(words, LogisticRegression(C=3, max_iter=2000)), table["text"], table)
    return table, image, text


def test_each_modality_tells_something_but_not_all(
    scores: tuple[pd.DataFrame, np.ndarray, np.ndarray],
) -> None:
    table, image, text = scores
    assert 0.60 < _within(table, image) < 0.87
    assert 0.66 < _within(table, text) < 0.87


def test_both_modalities_tell_more(scores: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> None:
    table, image, text = scores
    both = _held_out(LogisticRegression(), np.stack([image, text], axis=1), table)
    pooled = {
        name: roc_auc_score(table["finding"], s) for name, s in (("i", image), ("t", text), ("b", both))
    }
    assert pooled["b"] > max(pooled["i"], pooled["t"]) + 0.02
    for finding in (0, 1):  # given the finding and the site, what film and note say is unrelated
        for _, part in table.assign(image=image, text_score=text).groupby("site"):
            mine = part[part["finding"] == finding]
            assert abs(np.corrcoef(mine["image"], mine["text_score"])[0, 1]) < 4 / np.sqrt(len(mine))


def test_scanner_gives_nothing_away_within_a_hospital(measured: Path) -> None:
    rows = [
        (row["site"], film.ManufacturerModelName, film.Rows * film.Columns, row["finding"])
        for row, film in _films(measured)
    ]
    table = pd.DataFrame(rows, columns=["site", "scanner", "pixels", "finding"])
    for _, part in table.groupby("site"):
        assert part.groupby("scanner")["pixels"].nunique().eq(1).all()
        if part["scanner"].nunique() == 2:
            counts = part.groupby("scanner")["finding"].agg(["mean", "size"])
            spread = np.sqrt((0.25 / counts["size"]).sum())
            assert abs(counts["mean"].iloc[0] - counts["mean"].iloc[1]) < 3.5 * spread


def test_evidence_leans_as_documented() -> None:
    rng = np.random.default_rng(0)
    said = {finding: np.array([hospitals.evidence(finding, rng) for _ in range(4000)]) for finding in (0, 1)}
    for finding, sign in ((0, -1), (1, 1)):
        assert np.abs(said[finding]).max() <= 1
        assert np.mean(said[finding] * sign > 0.5) == pytest.approx(hospitals.PLAIN, abs=0.03)
        assert np.mean(np.abs(said[finding]) < 0.5) == pytest.approx(hospitals.UNCLEAR, abs=0.03)


# Sounds and ECGs


def test_signals_are_files_beside_the_same_hospitals(tiny: Path, tmp_path: Path) -> None:
    with_signals = demo.generate(tmp_path / "signals", scale=TINY, signals=True)
    before, now = _digests(tiny), _digests(with_signals)
    same = {name: digest for name, digest in before.items() if name.startswith("images/")}
    assert same and same.items() <= now.items()
    table = _table(with_signals)
    pd.testing.assert_frame_equal(table[list(demo.COLUMNS)], _table(tiny))
    files = {file for column in demo.SIGNALS for file in table[column] if file}
    assert files == {name for name in now if name.startswith(("audio/", "waveforms/"))}
    assert len({now[file] for file in files}) == len(files)
    lacking = table.groupby("site")[list(demo.SIGNALS)].agg(lambda names: (names == "").mean())
    assert lacking["waveform"].eq(0).all() and lacking["audio"].to_dict() == {
        "northgate": 0, "harbour": 0, "meadow": 0, "old-mill": 1,
    }  # fmt: skip
    again = demo.generate(tmp_path / "again", scale=0.02, signals=True)
    assert {n: d for n, d in _digests(again).items() if n.startswith("audio/")}.items() <= now.items()
    with pytest.raises(DataError, match="is not the generated dataset"):
        demo.generate(tmp_path / "again", scale=0.02)


def test_texts_are_columns_beside_the_same_hospitals(tiny: Path, tmp_path: Path) -> None:
    with_texts = demo.generate(tmp_path / "texts", scale=TINY, texts=True)
    before, now = _digests(tiny), _digests(with_texts)
    assert {n: d for n, d in before.items() if n.startswith("images/")}.items() <= now.items()
    table = _table(with_texts)
    pd.testing.assert_frame_equal(table[list(demo.COLUMNS)], _table(tiny))
    assert set(table) - set(demo.COLUMNS) == set(demo.TEXTS) and (table[list(demo.TEXTS)] != "").all().all()
    for name, words in (("effusion", "pleural effusion"), ("nodules", "lung nodules")):
        said = table["impression"].map(lambda text, words=words: finding_stated(text, regex.compile(words)))
        assert (said == (table[name].astype(str) == "1")).all()
        asked = table[table["question"] == f"Is there any {words}?"]
        assert len(asked) and (asked["answer"].eq("yes") == asked[name].astype(str).eq("1")).all()


def test_a_sound_crackles_and_a_heart_hurries_with_the_evidence(tmp_path: Path) -> None:
    def beats(evidence: float, seed: int) -> float:
        write_ecg(
            tmp_path / "x.npz", Devices(leads=("II",), ecg_hz=250), evidence, np.random.default_rng(seed)
        )
        signal, rate, _ = open_waveform(tmp_path / "x.npz")
        return 60 * len(find_peaks(signal[0], height=0.6, distance=60)[0]) / (signal.shape[1] / rate)

    def roughness(evidence: float, seed: int) -> float:
        write_sound(tmp_path / "x.wav", Devices(), evidence, np.random.default_rng(seed))
        values, _ = read_sound(tmp_path / "x.wav")
        return float(
            np.abs(np.diff(values[0])).mean() / np.abs(values[0]).mean()
        )  # crackles are of high pitch

    for measured in (beats, roughness):
        more = [measured(1, seed) > measured(-1, seed) for seed in range(10)]
        assert np.mean(more) >= 0.9
