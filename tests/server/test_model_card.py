"""A model card says what the run's own files say, and nothing that anybody else put into them is taken for markup."""

from __future__ import annotations

import html
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmmed.cli import app
from mmmed.config import resolve
from mmmed.demo import generate
from mmmed.errors import DataError, RunError
from server.model_card import Card, make_card, to_html, to_markdown
from server.model_card.blocks import Fill, Items, Table, Text
from server.model_card.pages import TO_FILL

_RUN = Path(__file__).parents[1] / "contracts" / "formats" / "run.tar.xz"
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_OURS = {"95"}  # of "95 % intervals"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that version 0.1.0 wrote."""
    folder = tmp_path_factory.mktemp("card")
    with tarfile.open(_RUN) as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"


@pytest.fixture(scope="module")
def card(run: Path) -> Card:
    return make_card(run)


def _values(value: Any) -> Iterator[str]:
    """All numbers and texts in a JSON value, as they stand there; of objects also how much they hold."""
    if isinstance(value, dict):
        yield str(len(value))
        for key, one in value.items():
            yield str(key)
            yield from _values(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _values(one)
    else:
        yield str(value)


def _told(run: Path) -> tuple[set[str], list[float]]:
    """Every number in the run's files, as text and as a value."""
    told = list(_values(resolve(run / "config.toml").config.model_dump()))
    for name in ("evaluation.json", "environment.json", "report/privacy.json"):
        told += _values(json.loads((run / name).read_text()))
    for line in (run / "rounds.jsonl").read_text().splitlines():
        told += _values(json.loads(line))
    texts = {found for one in told for found in _NUMBER.findall(one)}
    return texts, [float(one) for one in texts if len(one) < 30]


def _plain(page: str) -> str:
    """The text of either form."""
    bare = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    return html.unescape(bare).replace("\\", "")


@pytest.mark.parametrize("form", [to_markdown, to_html])
def test_every_number_in_the_card_is_in_the_runs_files(run: Path, card: Card, form: Any) -> None:
    texts, values = _told(run)
    found = _NUMBER.findall(_plain(form(card)))
    assert len(found) > 60
    for one in found:
        if one not in texts and one not in _OURS:
            step = 10.0 ** -len(one.partition(".")[2])  # rounded, an epsilon up
            assert "." in one and any(-step / 2 <= float(one) - value <= step for value in values), one


def test_it_says_what_the_report_and_the_scores_say(run: Path, card: Card) -> None:
    page, report = to_markdown(card), json.loads((run / "report" / "privacy.json").read_text())
    within = json.loads((run / "evaluation.json").read_text())["auroc"]["within_site"]
    assert "| Epsilon | 8.000 |" in page and "| Unit | patient |" in page and "any number" in page
    assert f"{within['value']:.3f} ({within['low']:.3f} to {within['high']:.3f})" in page
    assert "| meadow | undefined |" in page and "| Energy | not recorded |" in page
    for text in (*report["assumptions"], *report["not_covered"]):
        assert text in _plain(page) and text in _plain(to_html(card))
    assert to_html(card).count(f"<mark>{TO_FILL}") == page.count(f"**{TO_FILL}**") > 20


def test_the_front_matter_is_that_of_hugging_face(card: Card) -> None:
    _, front, _ = to_markdown(card).split("---\n", 2)
    facts = {}
    for line in front.splitlines():  # each line is a key and a JSON value, which YAML reads the same
        key, _, value = line.partition(": ")
        facts[key] = json.loads(value.partition("  #")[0])
    assert facts["license"] == "unknown" and "differential-privacy" in facts["tags"]
    ((result,),) = [index["results"] for index in facts["model-index"]]
    assert result["metrics"][0].keys() == {"type", "name", "value"} and result["task"]["type"]


HOSTILE = (
    "<script>alert(1)</script>",
    "[a](javascript:alert(1))",
    "![x](https://evil.example/p.png)",
    "a | b | c",
    "`rm` **bold** _it_ ~~no~~",
    "one\n\n# heading\n---\n- item",
    "\u202egnp.exe\x1b[31m",
    "&lt;b&gt;",
    "---",
    "1. one",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_others_chose_are_only_text(name: str) -> None:
    def built(name: str) -> Card:
        rows = [(name, name), (name, Fill(name))]
        blocks = [Text(name), Items([name]), Table(("site", name), rows)]
        return Card(name, {"tags": [name]}, [(name, blocks)])

    page, markdown = to_html(built(name)), to_markdown(built(name))
    assert re.findall(r"<[^>]*>", page) == re.findall(r"<[^>]*>", to_html(built("x")))
    assert not set("\u202e\x1b") & set(page + markdown)
    _, front, body = markdown.split("---\n", 2)
    assert json.loads(front.removeprefix("tags: ")) == [name]
    lines, plain = ([line for line in text.splitlines() if line] for text in (body, to_markdown(built("x"))))
    assert len(lines) == len(plain) - 3  # no text has made a line of its own
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines if line.startswith("|"))
    own = body.replace(f"**{TO_FILL}**", "").replace("# ", " ").replace("##", "#")
    assert (
        not re.search(r"(?<!\\)[\[`*~<]", own)
        and "](" not in own.replace(r"\](", "")
        and "https://" not in own
    )


def test_what_is_no_finished_run_is_said_in_one_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        make_card(tmp_path)
    part = tmp_path / "part"
    for folder in ("model", "report"):
        (part / folder).mkdir(parents=True)
    for name in ("config.toml", "environment.json"):
        (part / name).write_bytes((run / name).read_bytes())
    with pytest.raises(RunError, match="no final model"):
        make_card(part)
    (part / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="no privacy report"):
        make_card(part)
    edited = (run / "report" / "privacy.json").read_text().replace('"epsilon": 7.99', '"epsilon": 0.99')
    (part / "report" / "privacy.json").write_text(edited)
    with pytest.raises(RunError, match="does not hold"):
        make_card(part)
    result = CliRunner().invoke(app, ["card", str(part), "--out", "card.pdf"])
    assert result.exit_code == 2 and ".html" in result.output


def test_it_tells_what_the_run_cost_and_no_energy_that_was_not_measured(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    cost = {"version": 1, "starts": 1, "ends": 1, "cpu_seconds": 61.26, "wall_seconds": 40.0, "joules": None}
    (copy / "cost.json").write_text(json.dumps(cost))
    page = _plain(to_markdown(make_card(copy)))
    assert "| Processor time | 61 s of one processor core" in page and "| Energy | not measured" in page
    (copy / "cost.json").write_text(json.dumps(cost | {"starts": 2, "joules": 7_200_000.0}))
    page = _plain(to_markdown(make_card(copy)))
    assert "cut off" in page and "| Energy | an estimate: 2 kWh, what all of the machine's processors" in page


def test_it_tells_groups_that_were_evaluated_and_hides_small_ones(run: Path, tmp_path: Path) -> None:
    data, file = generate(tmp_path / "data", scale=0.06), tmp_path / "groups.json"
    asked = ["evaluate", str(run), "--data", str(data), "--by"]
    done = CliRunner().invoke(app, [*asked, "sex,age_band,site", "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert "not told" in done.output and "fewer than 11 patients" in " ".join(done.output.split())
    told = json.loads(file.read_text())
    assert "patients" not in json.dumps(told) and {one["by"] for one in told["groups"]} == {
        "sex",
        "age_band",
        "site",
    }
    done = CliRunner().invoke(app, ["card", str(run), "--subgroups", str(file)])
    women = next(one for one in told["groups"] if one["name"] == "F")
    row = (
        f"| sex | F | {women['score']['value']:.2f} ({women['score']['low']:.2f}"
        if women["told"]
        else "| sex | F |"
    )
    page = _plain(done.output)
    assert done.exit_code == 0 and row in page and "computed without noise" in page
    assert "is not known: no subgroup result" not in page
    for columns, said in (("ward", "no column 'ward'"), ("age", "take age_band")):
        with pytest.raises(DataError, match=said):
            CliRunner().invoke(app, [*asked, columns], catch_exceptions=False)
    file.write_text('{"version": 1, "score": "AUROC", "groups": [{"by": "sex"}]}')
    with pytest.raises(RunError, match="holds no scores of groups"):
        make_card(run, file)
    with pytest.raises(RunError, match="no such file"):
        make_card(run, tmp_path / "nothing.json")
