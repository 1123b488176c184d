"""Every code that a round's record can hold has a meaning, which the pages and the docs give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.release import refusal_code
from mmmed.errors import DataError
from mmmed.federation.protocol import Refusal, meaning, refusal_of

ROOT = Path(__file__).parents[3]
_CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")  # what the server takes for a code


@pytest.mark.parametrize("refusal", Refusal)
def test_a_code_can_be_sent_and_means_something(refusal: Refusal) -> None:
    assert _CODE.fullmatch(refusal) and refusal_of(str(refusal)) is refusal
    assert meaning(refusal) == refusal.meaning != ""


def test_a_code_of_another_version_means_nothing_and_is_no_error() -> None:
    assert refusal_of("of-the-future") is None and meaning("of-the-future") == ""


def test_the_docs_give_each_of_the_sites_codes_with_its_meaning() -> None:
    text = (ROOT / "docs" / "site.md").read_text()
    names = list(Refusal)
    own = names[: names.index(Refusal.NO_REPLY)]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", text, flags=re.MULTILINE))
    assert rows == {str(one): one.meaning for one in own}


def test_every_code_of_a_payload_that_cannot_be_used_is_a_refusal() -> None:
    codes = re.findall(r'WireError\(\s*"([a-z-]+)"', (ROOT / "mmmed" / "wire.py").read_text())
    assert len(codes) >= 5 and all(refusal_of(code) for code in codes)


def test_no_code_is_written_down_twice() -> None:
    """A literal beside the enumeration is what left codes without a meaning."""
    telling = {str(one) for one in Refusal if "-" in one}
    for package in ("client", "server", "simulations"):
        for file in (ROOT / package).rglob("*.py"):
            literals = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', file.read_text()))
            assert not literals & telling, file


def test_an_error_of_the_site_has_one_of_its_codes() -> None:
    assert refusal_code(DataError("x")) is Refusal.DATA
