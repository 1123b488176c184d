"""kill -9 between any two things that a site does for an answer, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privacy.errors import VoidStep
from tests.privacy.secure_sum.federation import Federation, make_terms, name, zeros

ROOT = Path(__file__).parents[3]
ORDER = [
    *("charge", "flush"),
    *("flush", "rename", "flush"),  # the note: file, name, folder
    "draw",
    *("flush", "rename", "flush"),  # the answer
    "send",
]


def run(folder: Path, fatal: int) -> int:
    command = [sys.executable, "-m", "tests.privacy.secure_sum.dying_site", str(folder), str(fatal)]
    return subprocess.run(command, cwd=ROOT, timeout=900, check=False).returncode


def events(folder: Path) -> list[str]:
    path = folder / "events"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "run", make_terms()).meet()


def test_everything_is_flushed_before_the_next_begins(federation: Federation, tmp_path: Path) -> None:
    assert run(tmp_path, 0) == 0
    assert events(tmp_path) == ORDER


@pytest.mark.parametrize(
    "fatal", range(1, len(ORDER) + 1), ids=[f"{n}-{what}" for n, what in enumerate(ORDER)]
)
def test_a_site_killed_anywhere_leaves_no_second_vector_under_a_mask_and_nothing_uncharged(
    federation: Federation, tmp_path: Path, fatal: int
) -> None:
    assert run(tmp_path, fatal) == -signal.SIGKILL
    assert events(tmp_path) == ORDER[: fatal - 1]
    assert not (tmp_path / "sent").exists()
    drawn = events(tmp_path).count("draw")
    assert federation.account(name(0)).charges() == ([1] if "charge" in events(tmp_path) else [])

    site, draws = federation.open(name(0)), []

    def draw() -> np.ndarray:
        draws.append(1)
        return np.zeros(federation.terms.dimension)

    try:
        first = site.answer(federation.request(), draw)
    except VoidStep:
        first = b""
    # At most one vector was ever made for this context, and only after its charge.
    assert drawn + len(draws) <= 1
    assert len(federation.account(name(0)).charges()) == 1
    if first:
        assert federation.open(name(0)).answer(federation.request(), draw) == first
        assert drawn + len(draws) == 1
    # The run goes on.
    second = site.answer(federation.request(attempt=2), zeros(federation.terms))
    assert second != first
    assert federation.account(name(0)).charges() == [1, 2]


def test_a_site_killed_after_it_sent_repeats_the_bytes(federation: Federation, tmp_path: Path) -> None:
    assert run(tmp_path, 0) == 0
    again = federation.open(name(0)).answer(federation.request(), lambda: pytest.fail("drawn"))
    assert again == (tmp_path / "sent").read_bytes()
