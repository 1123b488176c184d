"""What a program gets from ``import mmmed``: the same as the command, as functions."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import mmmed
import mmmed.api
from mmmed.cli import app, predict
from mmmed.config import RunConfig, resolve
from mmmed.errors import ConfigError, DataError, ModelError
from mmmed.inference.sites import predict_sites
from mmmed.modalities.image import ImageData
from privacy.metrics.release import exact_tables

SECTIONS = {
    "federation": {"rounds": 1},
    "training": {"local_epochs": 1, "batch_size": 8},
    "privacy": {"delta": 0.01},
}


@pytest.fixture(scope="module")
def run(hospitals: Path, tmp_path_factory: pytest.TempPathFactory) -> mmmed.Run:
    folder = tmp_path_factory.mktemp("api") / "run"
    return mmmed.simulate(folder=folder, data={"source": str(hospitals)}, **SECTIONS)


def test_importing_it_loads_nothing_heavy() -> None:
    program = (
        "import sys, mmmed; assert {'simulate', 'RunConfig', 'load_model', 'predict'} <= set(dir(mmmed));"
        "heavy = {'torch', 'pydantic', 'pandas', 'flwr', 'simulations'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=900)


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(mmmed, name) is not None for name in mmmed.__all__)
    assert mmmed.RunConfig is RunConfig
    with pytest.raises(AttributeError, match="simulat'"):
        mmmed.simulat  # noqa: B018


def test_a_simulation_gives_its_folder_and_its_evaluation(run: mmmed.Run) -> None:
    assert (run.folder / "model" / "model.safetensors").is_file()
    assert set(run.evaluation["auroc"]) == {"pooled", "site_only", "within_site", "sites"}
    assert mmmed.load_model(run.folder).config.federation.rounds == 1


def test_a_file_and_sections_over_it(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("[federation]\nrounds = 2\n")
    with pytest.raises(ConfigError, match=r"mmmed\.simulate: .*'federation\.round'.*'federation\.rounds'"):
        mmmed.simulate(tmp_path / "run.toml", federation={"round": 1})
    with pytest.raises(ConfigError, match=r"run\.toml: federation\.rounds"):
        (tmp_path / "run.toml").write_text("[federation]\nrounds = 0\n")
        mmmed.simulate(tmp_path / "run.toml", training={"seed": 1})
    with pytest.raises(TypeError, match="training"):
        mmmed.simulate(resolve().config, training={"seed": 1})


def test_a_model_is_read_from_its_own_folder_too(run: mmmed.Run, tmp_path: Path) -> None:
    model = mmmed.load_model(run.folder / "model")
    assert not model.network.training and model.config.training.batch_size == 8
    with pytest.raises(ModelError, match="no model"):
        mmmed.load_model(tmp_path)


def test_predictions_are_those_of_the_evaluation_and_cover_every_record(
    run: mmmed.Run, hospitals: Path
) -> None:
    model = mmmed.load_model(run.folder)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    table = mmmed.predict(model, hospitals)
    assert len(table) == len(pd.read_csv(hospitals / "data.csv")) == table["row"].nunique()
    classes = list(model.config.task.classes)
    np.testing.assert_allclose(table[classes].sum(axis=1), 1)
    assert all(value.equal(before[name]) for name, value in model.network.state_dict().items())
    for site in predict_sites(model.network, model.config, hospitals):
        mine = table.loc[table["site"] == site.site, classes].to_numpy()
        nearest = np.abs(mine[None] - site.prediction[:, None]).max(axis=2).min(axis=1)
        assert len(site.prediction) < len(mine) and nearest.max() < 1e-6


def test_one_patient_is_enough_and_what_is_wrong_with_a_row_is_a_warning(
    run: mmmed.Run, hospitals: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(hospitals, data)
    rows = pd.read_csv(hospitals / "data.csv", dtype=str)
    rows.head(1).to_csv(data / "data.csv", index=False)
    model = mmmed.load_model(run.folder)
    rows.head(1).drop(columns="finding").to_csv(data / "data.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(mmmed.predict(model, data)) == 1  # nobody has to know what is true
    rows.head(1).assign(image="images/gone.dcm").to_csv(data / "data.csv", index=False)
    with pytest.warns(UserWarning, match="gone"):
        assert len(mmmed.predict(model, data)) == 1
    rows.head(1).drop(columns="text").to_csv(data / "data.csv", index=False)
    with pytest.raises(DataError, match="text"):
        mmmed.predict(model, data)


def test_a_study_by_its_files_is_predicted_as_the_row_of_a_table(run: mmmed.Run, hospitals: Path) -> None:
    model = mmmed.load_model(run.folder)
    rows = pd.read_csv(hospitals / "data.csv", dtype=str, keep_default_na=False)
    table = mmmed.predict(model, hospitals).set_index("row")
    number = int(rows.index[rows["text"] != ""][0])
    found = model.predict(image=hospitals / rows["image"][number], text=rows["text"][number])
    assert found.read == ("image", "text") and found.missing == ()
    for name, value in found.values.items():
        assert value == pytest.approx(float(table[name][number]), abs=1e-6)


def test_shares_of_modalities_add_up_and_are_those_of_all_orders(run: mmmed.Run, hospitals: Path) -> None:
    model = mmmed.load_model(run.folder)
    rows = pd.read_csv(hospitals / "data.csv", dtype=str, keep_default_na=False)
    film, note = hospitals / rows["image"][0], "Consolidation on the left. Fever."
    found = model.explain(image=film, text=note)
    image, text = model.predict(image=film).values, model.predict(text=note).values
    for name, value in found.values.items():
        nothing = found.nothing[name]
        assert found.without == {"image": text, "text": image}
        orders = ((image[name] - nothing) + (value - text[name])) / 2  # the image first, and last
        assert found.shares["image"][name] == pytest.approx(orders, abs=1e-9)
        assert nothing + sum(one[name] for one in found.shares.values()) == pytest.approx(value, abs=1e-9)


def test_an_explanation_has_the_places_of_the_film_and_the_words_of_the_note(
    run: mmmed.Run, hospitals: Path, tmp_path: Path
) -> None:
    model = mmmed.load_model(run.folder)
    film, note = (
        hospitals / pd.read_csv(hospitals / "data.csv")["image"][0],
        "Fever. <script>alert(1)</script>",
    )
    (tmp_path / "note.txt").write_text(note)
    found = model.explain(image=film, text=tmp_path / "note.txt")
    assert found.details["text"].names == ("Fever. ", "<script>alert(1)</script>")
    size = model.config.data.of(ImageData).image_size
    assert found.details["image"].map is not None and found.details["image"].map.shape == (2, size, size)
    page = model.page(found)
    assert "<script" not in page and "&lt;script&gt;" in page and "finding = 1: " in page
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "://" not in page
    assert json.loads((run.folder / "environment.json").read_text())["run_id"] in page
    epsilon = json.loads((run.folder / "report" / "privacy.json").read_text())["summary"]["epsilon"]
    told = re.search(r"epsilon ([\d.]+) at delta 0\.01 a patient", page)
    assert told and 0 <= float(told[1]) - epsilon < 0.0011  # never less than it is
    assert re.search(r"finding = 0: \d+ %</h1>", model.page(found, of="0"))
    with Image.open(io.BytesIO(model.picture(found))) as picture:
        assert picture.format == "PNG" and picture.width > 2 * picture.height
    for wrong, told in (
        (lambda: model.page(model.predict(text=note)), "Model.explain"),
        (lambda: model.page(found, of="2"), "no number '2'. It gives: 0, 1"),
        (lambda: model.picture(model.explain(text=note)), "no picture"),
    ):
        with pytest.raises(DataError, match=told):
            wrong()


def test_a_run_whose_hospitals_released_nothing_says_that_it_is_not_calibrated(
    run: mmmed.Run, tmp_path: Path
) -> None:
    found = mmmed.load_model(run.folder).predict(text="Fever.").doubt
    assert found.calibrated == {} and found.possible == ()
    assert found.told.startswith("Not calibrated: its folder holds no results")
    assert "Not calibrated" in mmmed.load_model(run.folder / "model").predict(text="Fever.").doubt.told


def test_released_counts_calibrate_and_rule_out(run: mmmed.Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder / "model", tmp_path / "model")
    (tmp_path / "report").mkdir()
    rng = np.random.default_rng(0)
    z = rng.normal(-2, 0.8, 4000)
    true = rng.random(4000) < 1 / (
        1 + np.exp(-2 * (z + 2))
    )  # surer than the model says, and at another level
    tables = exact_tables(1 / (1 + np.exp(-z))[:, None], true[:, None].astype(float), np.arange(4000))
    report = {"run": {"pooled": {"sites": ["a"], "tables": tables.tolist()}}, "results": {"noise_std": 1.0}}
    (tmp_path / "report" / "privacy.json").write_text(json.dumps(report))
    model = mmmed.load_model(tmp_path)
    calibration = model.calibration
    assert not isinstance(calibration, str)
    found = model.predict(text="Fever.")
    score = np.array([found.values["1"]])
    value, low, high = (float(one[0]) for one in calibration.corrected(score))
    assert found.doubt.calibrated == {"0": pytest.approx(1 - value), "1": pytest.approx(value)}
    assert found.doubt.intervals["1"] == (low, high) and found.doubt.intervals["0"] == (1 - high, 1 - low)
    possible = calibration.possible(score, 0.9)[0]
    assert found.doubt.possible == tuple(f"finding = {k}" for k in (0, 1) if possible[k])
    assert value == pytest.approx(1 / (1 + np.exp(-2 * (np.log(score[0] / (1 - score[0])) + 2))), abs=0.05)
    assert "about 4000 held-out patients" in found.doubt.told
    report["run"]["pooled"]["tables"] = np.zeros((3, 2, 20)).tolist()
    (tmp_path / "report" / "privacy.json").write_text(json.dumps(report))
    assert "another task" in mmmed.load_model(tmp_path).predict(text="Fever.").doubt.told


def test_what_is_wrong_with_a_study_is_told_by_name(run: mmmed.Run, tmp_path: Path) -> None:
    model = mmmed.load_model(run.folder)
    (tmp_path / "film.dcm").write_bytes(b"no picture")
    (tmp_path / "note.txt").write_bytes(b"\xff\xfe\xff")
    for given, told in (
        ({"imge": "x"}, "does not read 'imge'. It reads: image, text"),
        ({"image": tmp_path / "gone.dcm"}, "image: no file"),
        ({"image": tmp_path / "film.dcm"}, "film.dcm"),
        ({"text": tmp_path / "note.txt"}, "text: .*UTF-8"),
        ({"text": " "}, "nothing that the model reads"),
        ({}, "nothing that the model reads"),
    ):
        with pytest.raises(DataError, match=told):
            model.predict(**given)


def test_the_command_predicts_a_study_and_a_data_set(run: mmmed.Run, hospitals: Path, tmp_path: Path) -> None:
    image = pd.read_csv(hospitals / "data.csv")["image"][0]
    (tmp_path / "note.txt").write_text("No effusion.")
    told = tmp_path / "one.json"
    given = [f"image={hospitals / image}", f"text=@{tmp_path / 'note.txt'}"]
    shown = CliRunner().invoke(app, ["predict", str(run.folder), *given, "--explain", "--json", str(told)])
    assert shown.exit_code == 0 and "read: image, text." in shown.output and "without image" in shown.output
    found = json.loads(told.read_text())
    assert (
        found["values"]
        == mmmed.load_model(run.folder).predict(image=hospitals / image, text="No effusion.").values
    )
    files = {name: tmp_path / name for name in ("why.html", "film.png")}
    given += ["--page", str(files["why.html"]), "--picture", str(files["film.png"])]
    shown = CliRunner().invoke(app, ["predict", str(run.folder), *given])
    assert shown.exit_code == 0 and "Not calibrated" in shown.output and "text: " in shown.output
    assert files["why.html"].read_text().startswith("<!doctype html>")
    assert files["film.png"].read_bytes().startswith(b"\x89PNG")
    out = tmp_path / "all.csv"
    whole = CliRunner().invoke(app, ["predict", str(run.folder), "--data", str(hospitals), "--out", str(out)])
    assert whole.exit_code == 0 and len(pd.read_csv(out)) == len(pd.read_csv(hospitals / "data.csv"))
    for wrong in (["image"], ["image=x", "image=x"], []):
        with pytest.raises(DataError):
            CliRunner().invoke(app, ["predict", str(run.folder), *wrong], catch_exceptions=False)


def test_nothing_of_a_study_is_kept(
    run: mmmed.Run, hospitals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("MMMED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    model = mmmed.load_model(run.folder)
    image = hospitals / pd.read_csv(hospitals / "data.csv")["image"][0]
    model.explain(image=image, text="No effusion.")
    with pytest.raises(DataError):
        model.predict(image=image, text=tmp_path / "gone.txt")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_names_that_a_run_chose_do_not_reach_the_terminal_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    predict._show(mmmed.api.Prediction({"[red]ill[/]": 0.25, "\x1b[2Jwell": 0.75}, ("image",), ()))
    shown = capsys.readouterr().out
    assert "[red]ill[/]" in shown and "\\x1b[2Jwell" in shown and "\x1b" not in shown
