from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import DpSgdEvent
from privacy.report import build_report, render_report, verify_report, write_report
from privacy.report.plots import Axis, Bar, Line, Plot, spending
from privacy.report.rounding import percent, shown
from tests.privacy.report.conftest import State
from tests.privacy.report.test_verify import ANSWERED, FACTS

FORBIDDEN = re.compile(r"anonym|complian|certif|guarantees? that no|risk-free|100 % safe", re.IGNORECASE)


class Page(HTMLParser):
    """The words of a page, what it would fetch, and whether its elements are closed as they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words, self.fetches, self.tags, self._open = "", [], set(), []  # type: ignore[var-annotated]
        self.feed(page)
        assert self._open == []

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.fetches += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.fixture(scope="module")
def body(state_run: State) -> dict[str, Any]:
    south = state_run("south & <i>co</i>", DpSgdEvent(2.0, 0.5, 6), rounds=3, steps=2)
    answered = {"north": ANSWERED["north"], "south & <i>co</i>": ((1, 3),)}
    return build_report([state_run("north", metrics_shown=True), south], replace(FACTS, answered=answered))


def test_the_page_leads_with_risk_and_is_self_contained(body: dict[str, Any], tmp_path: Path) -> None:
    written, shown = write_report(body, tmp_path)
    assert verify_report(json.loads(written.read_text())) == []
    source = shown.read_text()
    page = Page(source)
    assert page.fetches == [] and "script" not in page.tags and "url(" not in source and "i" in page.tags
    assert "<i>co" not in source and "south & <i>co</i>" in page.words
    rates = dict(map(tuple, body["risk"]["true_positive_rate"]))
    for probability in (rates[0.01], rates[0.1], rates[0.001], body["risk"]["advantage"]):
        assert percent(probability) in page.words
    assert page.words.index("recognised") < page.words.index("ε ≤")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["privacy.html", "privacy.json"]


def test_the_page_says_all_that_the_json_says_in_words(body: dict[str, Any]) -> None:
    words = Page(render_report(body)).words
    said = [*body["not_covered"], *body["assumptions"], *body["definition"].values()]
    for part in ("data_access", "threats", "checklist"):
        said += [value for row in body[part] for value in row.values()]
    said += [statement[name] for statement in body["statements"] for name in ("key", "time", "site")]
    said += [digest for statement in body["statements"] for _, digest in statement["policies"]]
    assert [text for text in said if text not in words] == []


def test_the_page_says_of_each_charge_under_which_policy_it_was_made(body: dict[str, Any]) -> None:
    words = Page(render_report(body)).words
    for statement in body["statements"]:
        assert statement["policies"][0][1] in words
    north, south = body["statements"]
    unsaid = {name: value for name, value in north.items() if name != "policies"}
    for first, words in (
        (unsaid, "not stated, by older software"),
        (north | {"policies": []}, "none: a simulated site"),
    ):
        assert words in Page(render_report(body | {"statements": [first, south]})).words


def test_nothing_claims_what_cannot_be_shown(body: dict[str, Any]) -> None:
    for facts in (replace(FACTS, private=False), replace(FACTS, answered={}), FACTS):
        other = build_report([], facts)
        assert not FORBIDDEN.search(Page(render_report(other)).words + json.dumps(other))
    assert not FORBIDDEN.search(Page(render_report(body)).words + json.dumps(body))


def test_what_is_missing_is_said_first(state_run: State) -> None:
    missing = Page(render_report(build_report([state_run("north")], FACTS))).words
    assert "nothing is guaranteed" in missing[: missing.index("recognises")]
    assert "south" in missing
    plain = Page(render_report(build_report([], replace(FACTS, private=False)))).words
    assert "without differential privacy" in plain and "ε ≤" not in plain
    empty = Page(render_report(build_report([], replace(FACTS, answered={})))).words
    assert "No site has answered" in empty


@given(low=st.floats(1e-9, 1e3), ratio=st.floats(1.5, 1e6), log=st.booleans(), whole=st.booleans())
def test_ticks_are_few_round_and_on_the_axis(low: float, ratio: float, log: bool, whole: bool) -> None:
    axis = Axis("x", low, low * ratio, log=True) if log else Axis("x", 0, low * ratio, whole=whole)
    assert len(axis.ticks) <= 16
    for tick in axis.ticks:
        assert axis.low * (1 - 1e-6) <= tick <= axis.high * (1 + 1e-6)
        assert 0 <= axis.share(tick) <= 1
        assert not whole or log or tick == round(tick)
    assert axis.share(axis.low) == 0 and axis.share(axis.high) == pytest.approx(1)


def test_a_line_keeps_its_value_until_the_next_round() -> None:
    plot = spending([("a", [(1, 2.0), (4, 4.0)])], limit=4.0, rounds=4, planned=4.0)
    (line,) = plot.lines
    corners = [tuple(map(float, pair.split(","))) for pair in plot.path(line).split()]
    assert [corner[0] for corner in corners] == [plot.at_x(x) for x in (0, 1, 1, 4, 4)]
    assert [corner[1] for corner in corners] == [plot.at_y(y) for y in (0, 0, 2, 2, 4)]
    assert plot.band is None
    reserved = spending([("a", [(1, 2.0)])], limit=4.0, rounds=4, planned=3.5)
    assert reserved.band == (2.0, 3.5, "reserved")


@given(st.floats(0, 1e4))
def test_a_printed_epsilon_is_never_below_the_true_one(epsilon: float) -> None:
    assert float(shown(epsilon)) >= epsilon - 1e-9
    assert float(shown(epsilon)) <= epsilon + 1.0001e-3


def test_every_point_of_the_chart_says_its_site_round_and_epsilon(body: dict[str, Any]) -> None:
    said = [
        f"{site['site']}, round {number}: epsilon {shown(value)}"
        for site in body["sites"]
        for number, value in site["course"]
    ]
    words = Page(render_report(body)).words
    assert len(said) == 6 and [text for text in said if text not in words] == []


@pytest.mark.parametrize("target", [0.01, 0.7, 8.0, 1234.0])
def test_the_chart_of_many_sites_stays_in_its_frame(target: float) -> None:
    courses = [(f"s{n}", [(1, target / 3), (2, target * (1 + n / 50))]) for n in range(12)]
    plot = spending(courses, limit=target, rounds=1, planned=target)
    corners = [tuple(map(float, pair.split(","))) for line in plot.lines for pair in plot.path(line).split()]
    assert len(plot.lines) == len(plot.labels) == 12
    for x, y in [*corners, *((plot.at_x(x), plot.at_y(y)) for x, y, _ in plot.points)]:
        assert 0 <= x <= plot.width and 0 <= y <= plot.height


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_names_do_not_overlap_and_stay_in_the_frame(ends: list[float]) -> None:
    lines = [Line(f"n{i}", [(0, 0), (1, end)]) for i, end in enumerate(ends)]
    heights = [y for _, y in Plot("t", Axis("x", 0, 1), Axis("y", 0, 1), lines).labels]
    assert len(heights) == len(ends) and heights == sorted(heights)
    assert all(b - a >= 13.9 for a, b in pairwise(heights))
    assert all(0 < y <= Plot.height for y in heights)


@given(*[st.floats(0.01, 100)] * 3)
def test_a_bar_is_whole(spent: float, planned: float, limit: float) -> None:
    shares = Bar("a", spent, planned, limit).shares
    assert sum(shares) == pytest.approx(100, abs=0.05) and min(shares) >= -0.02
    assert shares[0] >= 100 * spent / max(spent, planned, limit) - 0.01
