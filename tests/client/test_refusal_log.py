"""The site's log of refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.refusal_log import record_refusal, refusals
from client.site_folder import StateFolder


def test_a_refusal_is_a_line_and_where_it_came_from_is_indented(tmp_path: Path) -> None:
    record_refusal(tmp_path / "state", "failed", ValueError("two\nlines"))
    record_refusal(tmp_path / "state", "failed", ValueError("again"))
    assert [line.split(" refused ")[1] for line in refusals(tmp_path / "state")] == [
        "failed ValueError: two lines",
        "failed ValueError: again",
    ]


def test_a_log_that_cannot_be_written_does_not_keep_a_refusal_from_being_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = StateFolder(tmp_path).log
    log.mkdir()
    record_refusal(tmp_path, "failed", ValueError("the reason"))
    told = capsys.readouterr().err
    assert str(log) in told and "failed ValueError: the reason" in told
