from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.report import EpsilonReport, SiteRound, SiteSpending, shown


def spending(site: str, epsilons: list[float], target: float = 8.0) -> SiteSpending:
    rounds = tuple(SiteRound(number, value, 5) for number, value in enumerate(epsilons, start=1))
    return SiteSpending(site, target, target, 1e-3, 1.2, 0.1, 1.0, rounds)


class Text(HTMLParser):
    """The text of a page and what it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words = ""
        self.fetches: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetches += [value or "" for name, value in attrs if name in ("src", "href")]


@given(st.floats(0, 1e4))
def test_a_printed_epsilon_is_never_below_the_true_one(epsilon: float) -> None:
    assert float(shown(epsilon)) >= epsilon - 1e-9
    assert float(shown(epsilon)) <= epsilon + 1.0001e-3


def test_json_and_page_say_the_same(tmp_path: Path) -> None:
    report = EpsilonReport("r", True, (spending("a", [1.0, 2.0004]), spending("b<script>", [0.5])))
    report.write(tmp_path)
    body = json.loads((tmp_path / "epsilon.json").read_text())
    assert body["schema"] == "mmmed-epsilon-report/1"
    assert [site["epsilon"] for site in body["sites"]] == [2.0004, 0.5]
    assert body["sites"][0]["rounds"][1] == {"round": 2, "epsilon": 2.0004, "steps": 5}
    assert "patient" in body["definition"]["unit"] and "add or remove" in body["definition"]["adjacency"]
    assert body["not_covered"]
    page = Text((tmp_path / "epsilon.html").read_text())
    assert page.fetches == []  # self-contained
    assert "2.001" in page.words and "b<script>" in page.words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epsilon.html", "epsilon.json"]


@pytest.mark.parametrize("forbidden", ["anonymous", "anonymised", "compliant", "certified"])
def test_the_report_claims_nothing_it_cannot_show(forbidden: str) -> None:
    page = Text(EpsilonReport("r", True, (spending("a", [1.0]),)).to_html()).words.lower()
    assert forbidden not in page


def test_a_run_without_privacy_says_so_first() -> None:
    page = Text(EpsilonReport("r", False, ()).to_html()).words
    assert "without differential privacy" in page
    assert "No round is finished" in Text(EpsilonReport("r", True, ()).to_html()).words


@pytest.mark.parametrize("target", [0.01, 0.7, 8.0, 1234.0])
def test_the_chart_stays_in_its_frame(target: float) -> None:
    sites = tuple(spending(f"s{n}", [target / 3, target * (1 + n / 50)], target) for n in range(12))
    page = EpsilonReport("r", True, sites).to_html()
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', page).groups())  # type: ignore[union-attr]
    points = re.findall(r'points="([^"]+)"', page)
    assert len(points) == 12 and "nan" not in page
    for x, y in (pair.split(",") for line in points for pair in line.split()):
        assert 0 <= float(x) <= width and 0 <= float(y) <= height
    labels = [float(y) for y in re.findall(r'<text class="f\d" x="[\d.]+" y="([\d.]+)"', page)]
    assert (
        len(labels) == 12
        and min(b - a for a, b in zip(sorted(labels), sorted(labels)[1:], strict=False)) >= 12
    )
