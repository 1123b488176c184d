"""How far a run is, by what its sites signed, so that an early report never passes for that of the whole run.

A site signs how many rounds it was asked for, the steps of its whole plan, and those that were charged so far. Only a
statement that reaches the end of either shows that the site's part has ended: what a coordinator says is not enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy.report.statement import Statement


def rounds_done(stated: Sequence[Statement], said: int) -> int:
    """Rounds that are done: as many as the coordinator says, or more if a site was charged for more."""
    return max([said, *(each.last_round for each in stated)])


def open_ends(stated: Sequence[Statement], *, private: bool, rounds: int, done: int) -> list[str]:
    """Why a report cannot be taken for that of a whole run, in words; empty if every site signed up to the end.

    Args:
        stated: the newest statement of each site.
        private: whether the run is said to have privacy; if not, no site signs anything.
        rounds: rounds that the run asks for.
        done: rounds that are done.
    """
    found = []
    if done < rounds:
        found.append(f"The run is not finished: {done} of {rounds} round{'s' * (rounds != 1)} done.")
    if private and not stated:
        found.append("No site has signed a statement: nothing shows how far the run went.")
    return found + [
        f"Site {each.site} signed for {each.steps} of its plan's {each.mechanism.steps} steps, the last in round "
        f"{each.last_round} of {rounds}: whether more was charged, its ledger alone tells."
        for each in stated
        if not _reaches(each, rounds, done)
    ]


def _reaches(each: Statement, rounds: int, done: int) -> bool:
    """Whether a site's statement covers all rounds that are done."""
    if each.steps >= each.mechanism.steps:
        return True
    # Older software did not sign for how many rounds it was asked: that all are done is then not shown by a round.
    return each.last_round >= done and (each.asked is not None or done < rounds)
