"""The log of a model in use, from the prediction to the page, with the real model of an earlier version."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import mmmed
from mmmed.cli import app
from mmmed.cli.watch import in_words
from mmmed.config import RunConfig
from mmmed.dashboard.shell import create_app
from mmmed.errors import DataError
from mmmed.watch import Period, Watch, WatchFolder, add_labels, prune_log, report
from mmmed.watch.pages import watch_section
from mmmed.watch.show import to_html

MODEL = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> WatchFolder:
    opened = WatchFolder.make(tmp_path / "log")
    opened.keep_model(MODEL, RunConfig())
    return opened


def line(folder: WatchFolder, study: str, at: str, score: float = 0.5, **other: Any) -> dict[str, Any]:
    return {
        "at": at if "T" in at else f"{at}T12:00:00+00:00", "model": MODEL, "study": folder.study(study),
        "patient": "", "values": {"0": 1 - score, "1": score}, "inputs": {}, "missing": [], "groups": {}, **other,
    }  # fmt: skip


def two_months(folder: WatchFolder, **other: Any) -> None:
    """Forty studies in June, and forty in August with higher scores."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.uniform(0.2, 0.5, 40), rng.uniform(0.5, 0.9, 40)])
    days = [f"2026-{6 if i < 40 else 8:02}-{i % 28 + 1:02}" for i in range(80)]
    folder.add([line(folder, f"S{i}", days[i], scores[i], **other) for i in range(80)])


def test_a_prediction_is_logged_without_a_name(kept_run: Path, hospitals: Path, tmp_path: Path) -> None:
    row = pd.read_csv(hospitals / "data.csv").iloc[0]
    film = hospitals / row["image"]
    given = [str(kept_run), f"image={film}", f"text={row['text']}", "--log", str(tmp_path / "log")]
    for more in ([], ["--explain"], ["--about", "study=A-7", "--about", "age=83", "--about", "site=ward 3"]):
        done = CliRunner().invoke(app, ["predict", *given, *more])
        assert done.exit_code == 0, done.output
    first, explained, told = WatchFolder.open(tmp_path / "log").read().predictions
    model = mmmed.load_model(kept_run)
    said = model.predict(image=film, text=str(row["text"]))
    assert first["values"] == pytest.approx(said.values, abs=1e-6) and first["missing"] == []
    assert first["groups"] == {"sex": row["sex"], "age_band": "40-59", "scanner": first["groups"]["scanner"]}
    assert explained["study"] == first["study"] != told["study"] and told["patient"] == first["patient"] != ""
    assert told["groups"]["age_band"] == "80 and over" and told["groups"]["site"] == "ward 3"
    assert set(first["inputs"]) == {"image mean", "image spread", "text tokens"}
    kept = b"".join(path.read_bytes() for path in (tmp_path / "log").rglob("*") if path.is_file())
    for name in (row["patient_id"], row["study_id"], "A-7", "1.2.826", str(row["text"])[:20]):
        assert name.encode() not in kept
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    with pytest.raises(DataError, match="logs nothing"):
        model.about(study="1")
    with pytest.raises(DataError, match="'name'"):
        mmmed.load_model(kept_run, log=tmp_path / "log").about(name="Jo")


def test_a_whole_table_is_logged_judged_and_shown(kept_run: Path, hospitals: Path, tmp_path: Path) -> None:
    log, table = tmp_path / "log", hospitals / "data.csv"
    out = ["--out", str(tmp_path / "out.csv"), "--log", str(log)]
    assert CliRunner().invoke(app, ["predict", str(kept_run), "--data", str(hospitals), *out]).exit_code == 0
    rows, told = pd.read_csv(table), pd.read_csv(tmp_path / "out.csv")
    lines = WatchFolder.open(log).read().predictions
    assert len(lines) == len(rows) == len(told)
    assert [one["values"]["1"] for one in lines] == pytest.approx(told["1"].tolist(), abs=1e-6)
    assert [one["groups"]["site"] for one in lines] == told["site"].tolist()
    assert sum("text" in one["missing"] for one in lines) == rows["text"].isna().sum()
    done = CliRunner().invoke(app, ["watch", "add-labels", str(log), str(table)])
    assert done.exit_code == 0 and f"{len(rows)} labels added" in done.output
    done = CliRunner().invoke(app, ["watch", "show", str(log), "--page", str(tmp_path / "page.html")])
    assert done.exit_code == 0 and max(map(len, done.output.splitlines())) <= 80
    assert "All predictions so far are of the reference" in done.output and "northgate" in done.output
    assert "<script" not in (page := (tmp_path / "page.html").read_text()) and "northgate" in page


def test_a_log_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(DataError, match="holds other files"):
        WatchFolder.make(tmp_path / "other")
    with pytest.raises(DataError, match="holds no log"):
        WatchFolder.open(tmp_path / "nothing")
    report_task = RunConfig.model_validate({"task": {"kind": "report"}})
    with pytest.raises(DataError, match="answers with a text"):
        Watch.of(tmp_path / "new", MODEL, report_task)
    assert not (tmp_path / "new").exists()


def test_threads_and_a_killed_process_leave_whole_lines(folder: WatchFolder) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: folder.add([line(folder, f"T{i}", "2026-06-01")] * 3), range(40)))
    assert len(folder.read().predictions) == 120
    child = os.fork()
    if child == 0:
        while True:
            folder.add([line(folder, "killed", "2026-06-02")])
    time.sleep(0.3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    folder.add([line(folder, "after", "2026-06-03")])  # the lock went with the process
    found = folder.read()
    assert found.unreadable <= 1 and folder.study("after") in {one["study"] for one in found.predictions}


def test_half_a_line_and_strange_lines_are_left_out_and_told(folder: WatchFolder) -> None:
    folder.add([line(folder, "S1", "2026-06-01")])
    file = next(folder.path.glob("predictions-*.jsonl"))
    whole = file.read_bytes()
    strange = [b"[]", b"\xff\xfe", b"{}", b'{"v": 1, "study": 3}', b"[" * 5000]
    strange.append(whole.strip().replace(b"+00:00", b""))  # a time without its zone
    file.write_bytes(b"\n".join(strange) + b"\n" + whole + whole[:40])
    folder.add([line(folder, "S2", "2026-06-02")])
    found = folder.read()
    assert len(found.predictions) == 2 and found.unreadable == len(strange) + 1
    assert any("cannot be read" in note for note in report(folder).notes)
    file.write_text('{"v": 2}\n')
    with pytest.raises(DataError, match="later mmmed"):
        folder.read()


def test_drift_and_a_modality_that_goes_missing_are_seen(folder: WatchFolder) -> None:
    two_months(folder)
    found = report(folder)
    assert found.counts == (40, 40) and found.now == Period.parse("2026-07-30..2026-08-28")
    assert found.predictions["1"].verdict == "SHIFTED"
    folder.add([line(folder, f"M{i}", "2026-08-20", missing=["text"], inputs={"age": 50}) for i in range(20)])
    text = {one.modality: one for one in report(folder).missing}
    assert text["text"].verdict == "MORE OFTEN" and text["image"].verdict == "stable"
    assert report(folder).inputs["age"].verdict == "too few"  # the reference has none of it
    told = in_words(report(folder))
    assert "MORE OFTEN" in told and max(map(len, told.splitlines())) <= 80
    assert found.predictions["1"].where.endswith("%") and "now" in found.predictions["1"].where


def test_a_modality_missing_from_the_beginning_is_no_drift(folder: WatchFolder) -> None:
    two_months(folder, missing=["text"])
    text = next(one for one in report(folder).missing if one.modality == "text")
    assert text.reference[0] == text.now[0] == 1 and text.verdict == "stable"


def test_days_are_in_utc_and_the_first_answer_of_a_study_counts(folder: WatchFolder) -> None:
    folder.add([line(folder, "S1", "2026-06-02T01:00:00+14:00", 0.3), line(folder, "S2", "2026-06-20")])
    folder.add([line(folder, "S1", "2026-07-20", 0.9)])
    found = report(folder)
    assert (
        found.reference == Period.parse("2026-06-01..2026-06-30") and found.studies == 2 and found.now is None
    )
    assert any("asked about before" in note for note in found.notes)
    with pytest.raises(DataError, match="overlap"):
        report(folder, now=Period.parse("2026-06-20..2026-07-20"))
    for text in ("2026-06-01", "x..y", "2026-06-02..2026-06-01"):
        with pytest.raises(DataError, match=r"expected two days|ends before"):
            Period.parse(text)
    with pytest.raises(DataError, match="0 models begin with"):
        report(folder, model="ff")


def test_labels_join_by_the_study_and_contradictions_are_refused(folder: WatchFolder, tmp_path: Path) -> None:
    two_months(folder)

    def table(**labels: object) -> Path:
        pd.DataFrame({"study_id": labels.keys(), "finding": labels.values()}).to_csv(
            path := tmp_path / "l.csv"
        )
        return path

    assert add_labels(folder, table(S1=1, s2=0, S99=1, S3=None))[:5] == (2, 0, 0, 1, 1)  # s2: as S2
    assert add_labels(folder, table(S1=1)).same == 1
    with pytest.raises(DataError, match="row 1 contradict"):
        add_labels(folder, table(S1=0, S5=1))
    assert report(folder).labelled == 2
    assert add_labels(folder, table(S1=0, S5=1), correct=True)[:3] == (1, 0, 1)
    twice = pd.DataFrame({"study_id": ["S7", "S8", "S7"], "finding": [0, 1, 1]})
    twice.to_csv(tmp_path / "twice.csv")
    with pytest.raises(DataError, match="rows 1, 3 hold different labels"):
        add_labels(folder, tmp_path / "twice.csv", correct=True)
    with pytest.raises(DataError, match="finding"):
        add_labels(folder, table(S9="maybe"))
    with pytest.raises(DataError, match="no column 'case'"):
        add_labels(folder, table(S9=1), "case")
    assert report(folder).labelled == 3


def test_calibration_is_that_of_the_months_and_small_months_are_not_told(
    folder: WatchFolder, tmp_path: Path
) -> None:
    two_months(folder)
    yes = [i % 2 for i in range(45)]  # five of them in August
    pd.DataFrame({"study_id": [f"S{i}" for i in range(45)], "finding": yes}).to_csv(tmp_path / "l.csv")
    add_labels(folder, tmp_path / "l.csv")
    (june,) = report(folder).calibration
    scores = [one["values"]["1"] for one in folder.read().predictions[:40]]
    assert (june.month, june.studies) == ("2026-06", 40) and june.predicted == pytest.approx(np.mean(scores))
    assert june.observed[0] == 0.5 and june.verdict == "agrees"
    months = {one.name: one.told for one in report(folder).groups if one.by == "month"}
    assert months == {"2026-06": False, "2026-08": False}  # one alone is never hidden


def test_pruning_deletes_months_with_their_labels_but_not_the_reference(
    folder: WatchFolder, tmp_path: Path
) -> None:
    two_months(folder)
    file = next(folder.path.glob("predictions-*.jsonl"))
    lines = file.read_text().splitlines(keepends=True)
    file.unlink()
    for month in ("2026-06", "2026-08"):
        own = [one for one in lines if json.loads(one)["at"].startswith(month)]
        (folder.path / f"predictions-{month}.jsonl").write_text("".join(own))
    pd.DataFrame({"study_id": ["S1", "S50"], "finding": [0, 1]}).to_csv(tmp_path / "l.csv")
    add_labels(folder, tmp_path / "l.csv")
    with pytest.raises(DataError, match="--with-reference"):
        prune_log(folder, "2026-07")
    with pytest.raises(DataError, match="expected a month"):
        prune_log(folder, "July")
    assert prune_log(folder, "2026-06") == []
    assert prune_log(folder, "2026-07", with_reference=True) == ["2026-06"]
    assert [one["study"] for one in folder.read().labels] == [folder.study("S50")]
    assert report(folder).studies == 40


def test_a_patient_is_forgotten_with_all_studies_and_labels(folder: WatchFolder) -> None:
    own = [
        line(folder, f"S{i}", "2026-06-01", patient=folder.patient("P1" if i < 2 else "P2")) for i in range(4)
    ]
    folder.add(own)
    folder.add([{"study": one["study"], "label": {"finding": "1"}} for one in own], labels=True)
    assert CliRunner().invoke(app, ["watch", "forget", str(folder.path)]).exit_code == 2
    done = CliRunner().invoke(app, ["watch", "forget", str(folder.path), "--patient", "p1", "--study", "S3"])
    assert "3 predictions deleted" in done.output
    found = folder.read()
    assert [one["study"] for one in (*found.predictions, *found.labels)] == [folder.study("S2")] * 2


def test_the_dashboard_shows_it_and_text_of_others_stays_text(folder: WatchFolder) -> None:
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    groups = {"site": "<script>alert(1)</script>\x1b[31m"}
    folder.add([line(folder, f"S{i}", day, patient=f"p{i}", groups=groups) for i in range(30)])
    labels = [{"study": folder.study(f"S{i}"), "label": {"finding": str(i % 2)}} for i in range(30)]
    folder.add(labels, labels=True)
    told = in_words(report(folder))
    assert "\x1b[31m" not in told and "<script>" not in to_html(report(folder))
    client = TestClient(create_app([watch_section(folder.path)], "token", ["testserver"], secure=False))
    client.post("/login", data={"token": "token"})
    page = client.get("/watch")
    assert page.status_code == 200 and "30 studies, 30 with a label" in page.text
    assert "<script>alert" not in page.text and "stays at the site" in page.text
