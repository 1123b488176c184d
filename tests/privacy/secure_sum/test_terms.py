"""The agreement: one form of its bytes, no senseless value, and what an officer's rules refuse."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import PolicyRefusal, SecureSumRefusal
from privacy.secure_sum import PeerRules, Terms
from tests.privacy.secure_sum.federation import make_terms, name, public

RULES = PeerRules(dict(make_terms(6).roster), honest=3, colluders=1, least_cohort=4, repeats=2)
ALLOWED = make_terms(5, honest=3, colluders=1, least_cohort=4)


def test_terms_are_read_back_from_their_bytes() -> None:
    terms = make_terms()
    again = Terms.parse(terms.content)
    assert again == terms
    assert again.digest == terms.digest


def test_the_bytes_of_known_terms_stay_what_they_are() -> None:
    # A change of these means that old and new sites cannot take part in one run: raise the label's number.
    assert make_terms().digest.hex() == "d26d23151c6b7ced685656e5a2d51d5ef33ef3e5c0c20e133f24c75a53d1f5ea"


OTHER = {
    "run": "run-2",
    "roster": make_terms(5).roster[:3],
    "layout": "0" * 64,
    "dimension": 2001,
    "clip": math.nextafter(1.0, 2.0),
    "noise_multiplier": 2.5,
    "honest": 2,
    "colluders": 1,
    "least_cohort": 4,
    "sampling_rate": 0.25,
    "steps": 5,
    "repeats": 3,
    "lattice_step": 2.0**-21,
    "word_bits": 32,
}


def test_every_field_is_in_the_digest() -> None:
    base = make_terms(honest=2)
    digests = {base.digest}
    for field, value in OTHER.items():
        digests.add(replace(base, **{field: 1 if field == "honest" else value}).digest)
    assert len(digests) == len(OTHER) + 1
    assert set(OTHER) | {"release"} == {field.name for field in fields(Terms)}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", ""),
        ("run", "a\nb"),
        ("run", "\ud800"),
        ("layout", "AB" * 32),
        ("dimension", 0),
        ("dimension", True),
        ("dimension", 10.0),
        ("clip", 1),
        ("clip", 0.0),
        ("clip", math.nan),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", math.inf),
        ("honest", 0),
        ("honest", 5),
        ("colluders", -1),
        ("colluders", 2),
        ("least_cohort", 1),
        ("least_cohort", 2),
        ("least_cohort", 5),
        ("sampling_rate", 1.5),
        ("steps", 0),
        ("repeats", -1),
        ("lattice_step", 1e-6),
        ("lattice_step", 2.0**20),
        ("word_bits", 48),
        ("release", "steps"),
        ("roster", ()),
        ("roster", make_terms().roster[::-1]),
        ("roster", make_terms().roster[:1] * 2),
        ("roster", (("site-a", public("x")), ("site-b", public("x")))),
        ("roster", (("site-a", "zz"), ("site-b", public("x")))),
        ("roster", [["site-a", public("x")], ["site-b", public("y")]]),
    ],
)
def test_a_senseless_value_is_refused(field: str, value: Any) -> None:
    with pytest.raises(SecureSumRefusal):
        replace(make_terms(), **{field: value})


def test_a_cohort_holds_the_honest_and_all_colluders() -> None:
    assert make_terms(6, honest=3, colluders=2, least_cohort=5).least_cohort == 5
    with pytest.raises(SecureSumRefusal, match="least_cohort"):
        make_terms(6, honest=3, colluders=2, least_cohort=4)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v | {"clip": 1},
        lambda v: v | {"more": 1},
        lambda v: {key: v[key] for key in v if key != "clip"},
        lambda v: v | {"roster": 5},
        lambda v: v | {"roster": [5]},
        lambda v: v | {"noise_multiplier": math.nan},
        lambda v: [v],
    ],
)
def test_other_content_is_not_read_as_terms(change: Any) -> None:
    values = json.loads(make_terms().content)
    with pytest.raises(SecureSumRefusal):
        Terms.parse(json.dumps(change(values), sort_keys=True, separators=(",", ":")).encode())


def test_terms_in_another_form_are_refused_since_they_would_have_another_digest() -> None:
    with pytest.raises(SecureSumRefusal, match="canonical"):
        Terms.parse(json.dumps(json.loads(make_terms().content)).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_not_stumbled_over(content: bytes) -> None:
    with pytest.raises(SecureSumRefusal):
        Terms.parse(content)


def test_nested_and_endless_content_is_refused() -> None:
    for content in (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b" " * (1 << 23),
        b'{"dimension":' + b"9" * 10_000 + b"}",
    ):
        with pytest.raises(SecureSumRefusal):
            Terms.parse(content)


def test_terms_within_the_rules_are_allowed() -> None:
    RULES.check(ALLOWED)
    RULES.check(replace(ALLOWED, honest=2, colluders=2, repeats=0))


@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        ("peers.honest", replace(ALLOWED, honest=4, least_cohort=5)),
        ("peers.colluders", replace(ALLOWED, colluders=0)),
        ("peers.least_cohort", replace(ALLOWED, honest=1, least_cohort=3)),
        ("peers.repeats", replace(ALLOWED, repeats=3)),
        ("peers.keys", make_terms(7, honest=3, colluders=1, least_cohort=4)),
        ("peers.keys", replace(ALLOWED, roster=(*ALLOWED.roster[:-1], (name(4), public("another"))))),
    ],
)
def test_terms_beyond_the_rules_are_refused_by_the_rules_name(rule: str, terms: Terms) -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        RULES.check(terms)
    assert refusal.value.rule == rule


def test_neither_torch_nor_flower_is_imported() -> None:
    code = "import sys, privacy.secure_sum; print([m for m in ('torch', 'flwr', 'scipy', 'mmmed') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.strip() == "[]"
