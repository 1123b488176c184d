"""``[peers]`` of a site's policy: with whom a run may share its noise, and how far the others are relied upon."""

from __future__ import annotations

from typing import Any

import pytest

from privacy.errors import PolicyError, PolicyRefusal
from privacy.policy import SitePolicy
from tests.privacy.secure_sum.federation import make_terms, names, public
from tests.privacy.test_policy import TEXT


def text(**changes: Any) -> str:
    values: dict[str, Any] = {"honest": 3, "colluders": 1, "least_cohort": 4, "repeats": 2}
    keys: dict[str, Any] = {one: public(one) for one in names(4)}
    values, keys = values | changes, changes.pop("keys", keys)
    shown = ", ".join(f'"{name}" = "{key}"' for name, key in keys.items())
    lines = [f"{name} = {value}" for name, value in values.items() if name != "keys"]
    return TEXT + "\n[peers]\n" + "\n".join(lines) + f"\nkeys = {{ {shown} }}\n"


def terms(**changes: Any) -> Any:
    return make_terms(4, **({"honest": 3, "colluders": 1, "least_cohort": 4, "repeats": 2} | changes))


def test_a_run_within_the_rules_is_allowed() -> None:
    SitePolicy.parse(text()).check_peers(terms())
    SitePolicy.parse(text(honest=4, colluders=0, least_cohort=2, repeats=9)).check_peers(terms())


@pytest.mark.parametrize(
    ("rules", "asked", "rule"),
    [
        ({"honest": 2}, {}, "peers.honest"),
        ({"repeats": 1}, {}, "peers.repeats"),
        ({}, {"honest": 4, "colluders": 0}, "peers.honest"),
        ({"honest": 4}, {"honest": 4, "colluders": 0}, "peers.colluders"),
        ({}, {"honest": 2, "colluders": 1, "least_cohort": 3}, "peers.least_cohort"),
        ({"keys": {one: public(one) for one in names(3)}}, {}, "peers.keys"),
        ({"keys": {one: public(one + "x") for one in names(4)}}, {}, "peers.keys"),
    ],
)
def test_a_run_beyond_them_is_refused_by_the_rules_name(
    rules: dict[str, Any], asked: dict[str, Any], rule: str
) -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        SitePolicy.parse(text(**rules)).check_peers(terms(**asked))
    assert refusal.value.rule == rule


def test_without_the_table_no_run_may_share_noise() -> None:
    with pytest.raises(PolicyRefusal, match="no \\[peers\\]"):
        SitePolicy.parse(TEXT).check_peers(terms())


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        (TEXT, text(), True),
        (text(), TEXT, False),
        (text(), text(), False),
        (text(), text(honest=4), True),
        (text(), text(honest=2), False),
        (text(), text(colluders=0), True),
        (text(), text(least_cohort=3), True),
        (text(), text(repeats=3), True),
        (text(), text(repeats=0), False),
        (text(), text(keys={one: public(one) for one in names(5)}), True),
        (text(), text(keys={one: public(one) for one in names(3)}), False),
        (text(), text(keys={one: public(one + "x") for one in names(4)}), True),
    ],
)
def test_whatever_allows_more_is_wider(before: str, after: str, wider: bool) -> None:
    assert ("peers" in SitePolicy.parse(before).widened_by(SitePolicy.parse(after))) is wider


@pytest.mark.parametrize(
    "changes",
    [
        {"honest": 0},
        {"honest": 2.0},
        {"colluders": -1},
        {"least_cohort": '"4"'},
        {"more": 1},
        {"keys": {}},
        {"keys": {"north": "abc"}},
        {"keys": {"north": public("north").upper()}},
        {"keys": {"north": public("north"), "south": public("north")}},
    ],
)
def test_a_table_that_cannot_be_read_refuses_the_file(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="peers"):
        SitePolicy.parse(text(**changes))
