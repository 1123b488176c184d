"""What of a report is the coordinator's own word: signed by no site, and checked against nothing.

The one list: the report carries it as `not_checked`, the page marks what it names, `verify_report` says nothing of it,
and everything else in a report is signed by a site or computed again. A path names a part of the report and all below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from privacy.report.statement import Statement

_ALWAYS = (
    "run/answered",  # more than was charged is found, fewer is not
    "run/done",  # fewer rounds than were charged are not shown, and that all are done takes what the sites signed
    "run/generated",
    "run/pooled",
    "run/software",
    "run/subject",
    "run/tuning",
    "run/utility",
    "audits",
    "attack",
)
_SIGNED_AS_ASKED = ("run/rounds", "run/target_epsilon")  # where a statement says what its site was asked
_SIGNED = ("run/id", "run/private")  # where there is a statement


def not_checked(stated: Sequence[Statement]) -> list[str]:
    """Paths of what no site of these statements signed and nothing else confirms, sorted."""
    asked = any(each.asked is not None for each in stated)
    return sorted([*_ALWAYS, *(() if stated else _SIGNED), *(() if asked else _SIGNED_AS_ASKED)])


def marks(body: Mapping[str, Any]) -> frozenset[str]:
    """The paths to mark in a report's page. Reports of before said that all of `run` is unsigned."""
    return frozenset(body.get("not_checked", (*_ALWAYS, *_SIGNED, *_SIGNED_AS_ASKED)))
