"""Check a report without trusting whoever sent it: signatures, every number, every word."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from privacy.errors import AccountingError, ReportError
from privacy.report.build import SCHEMA, RunFacts, build_report, digest
from privacy.report.earlier import V3, V4
from privacy.report.progress import open_ends, rounds_done
from privacy.report.statement import read_statement

_TOLERANCE = 1e-4  # relative, for numbers computed on another machine
_COMPUTED = (
    "summary",
    "risk",
    "joint",
    "sites",
    "evaluations",
    "results",
    "accounting",
    "utility",
    "tuning",
    "shared",
)
_GIVEN = {"delta", "noise_multiplier", "sampling_rate", "max_grad_norm", "mean_trials", "shape"}
_MOST_FINDINGS = 50


def verify_report(body: Any, keys: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a report; an empty list if nothing is. Whether it is of a whole run, `unfinished` says.

    The statements' signatures are checked, and the whole report is computed again from the statements and the
    server's facts and compared: exactly, but for what is computed in floating point. What the report lists as
    `not_checked` is the coordinator's own word.

    Args:
        body: the report, read from JSON.
        keys: public key (hexadecimal) of each site that took part, got from the sites themselves. Without it the
            signatures show only that each statement is whole, not whose it is, nor that none was left out.

    Returns:
        Findings in words, each naming where.
    """
    if not isinstance(body, dict) or body.get("schema") not in (SCHEMA, V4, V3):
        return [f"not a report of schema {SCHEMA}"]
    try:
        sealed = digest(body)
        facts = RunFacts.from_json(body.get("run"))
        statements, evaluations, sweeps = (
            _listed(body, name) for name in ("statements", "evaluation_statements", "sweep_statements")
        )
        audits = [audit["result"] for audit in body.get("audits", [])]
        expected = build_report(
            statements, facts, evaluations, audits, body.get("attack"), sweeps, schema=body["schema"]
        )
    except (ReportError, AccountingError) as error:
        return [str(error)]
    except (TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
        return [f"the report is not readable: {error}"]
    findings = [] if body.get("digest") == sealed else ["digest: the report was edited after it was made"]
    findings += _differences({**expected, "digest": sealed}, {**body, "digest": sealed})
    for site in expected["sites"]:
        findings += [f"site {site['site']}: {problem}" for problem in site["problems"]]
    for row in [*expected["evaluations"], *expected["tuning"]["sweeps"]]:
        findings += [f"site {row['site']}: {problem}" for problem in row["problems"]]
    findings += [f"site {site}: no valid statement" for site in expected["sites_without_statement"]]
    for audit in expected["audits"]:
        findings += [f"the audit of {audit['result']['time']} found a violation"] * (
            not audit["result"]["passed"]
        )
    if expected["attack"] is not None and not expected["attack"]["passed"]:
        findings.append("the attack did better than the mechanism permits")
    if keys is not None:  # a site may have several statements
        findings += dict.fromkeys(_foreign_keys([*statements, *evaluations, *sweeps], keys))
        silent = sorted(keys.keys() - {statement["site"] for statement in statements})
        findings += [
            f"site {site}: its key is known, but the report has no statement of it" for site in silent
        ]
    return findings[:_MOST_FINDINGS]


def unfinished(body: Mapping[str, Any]) -> list[str]:
    """Why a report in which `verify_report` finds nothing is not shown to be that of a whole run; empty if it is.

    It goes by what the sites signed, whatever the report says and of whichever schema it says it is: the report of an
    early round stays one, also if the coordinator says that it is of the last.
    """
    facts = RunFacts.from_json(body["run"])
    stated = [read_statement(value) for value in body["statements"]]
    done = rounds_done(stated, facts.rounds if facts.done is None else facts.done)
    return open_ends(stated, private=facts.private, rounds=facts.rounds, done=done)


def _listed(body: Mapping[str, Any], name: str) -> list[Any]:
    part = body.get(name)
    if not isinstance(part, list):
        raise ReportError(f"The report's part {name!r} is not a list.")
    return part


def _foreign_keys(statements: list[Any], keys: Mapping[str, str]) -> Iterator[str]:
    for statement in statements:
        site, key = statement["site"], statement["key"]
        if site not in keys:
            yield f"site {site}: its key is not among the known keys"
        elif keys[site].lower() != key:
            yield f"site {site}: signed with another key than the known one"


def _differences(expected: Any, found: Any, where: tuple[str, ...] = ()) -> Iterator[str]:
    """Where two JSON values differ: computed numbers by more than the tolerance, all others at all."""
    name = "/".join(where) or "report"
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() ^ found.keys(), key=str):
            yield f"{name}: {key!r} is {'missing' if key in expected else 'not part of a report'}"
        for key in expected.keys() & found.keys():
            yield from _differences(expected[key], found[key], (*where, str(key)))
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{name}: expected {len(expected)} items. Found {len(found)}"
        for index, (a, b) in enumerate(zip(expected, found, strict=False)):
            yield from _differences(a, b, (*where, str(index)))
    elif not _same(expected, found, where):
        yield f"{name}: expected {expected!r}. Found {found!r}"


def _same(expected: Any, found: Any, where: tuple[str, ...]) -> bool:
    if type(expected) is not type(found):
        return False
    if isinstance(expected, float) and where[0] in _COMPUTED and where[-1] not in _GIVEN:
        return math.isclose(expected, found, rel_tol=_TOLERANCE, abs_tol=0.0)
    return bool(expected == found)
