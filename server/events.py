"""What the server tells whoever watches a run (progress bars, a dashboard)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmmed.federation.protocol import Phase


@dataclass(frozen=True)
class PhaseStarted:
    """Messages went out to ``sites`` nodes."""

    round: int
    rounds: int
    phase: Phase
    sites: int


@dataclass(frozen=True)
class SiteReplied:
    """A site's reply was taken (``refused`` is None) or not (a code); ``site`` is its name or ``node-<id>``."""

    round: int
    phase: Phase
    site: str
    refused: str | None


@dataclass(frozen=True)
class SiteWaits:
    """A site answered that somebody there has to decide first (``code``); it is asked again."""

    round: int
    phase: Phase
    site: str
    code: str


@dataclass(frozen=True)
class RoundFinished:
    """The round is on disk; ``record`` is its line in rounds.jsonl."""

    round: int
    rounds: int
    record: dict[str, Any]


Event = PhaseStarted | SiteReplied | SiteWaits | RoundFinished
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `OnEvent` that does nothing."""
