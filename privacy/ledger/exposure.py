"""Which plans count for which patients: those on any data set that a patient is in.

Patients are known by keyed digests. After a change of the keys nobody can tell who is who, so that every patient counts
as the one who was spent most before: each kind of patient of today is combined with each kind of before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, product

from privacy.ledger.identity import memberships
from privacy.ledger.state import Account, State

Patients = Callable[[str], frozenset[bytes]]  # the digests of a data set, by its fingerprint


def exposures(state: State, patients: Patients, digests: frozenset[bytes]) -> list[list[Account]]:
    """The plans that count for each kind of patient among `digests`."""
    earlier = [_kinds(state, patients, each) for each in range(state.generation)]
    return _combined([*earlier, _of(state, patients, state.generation, digests)])


def all_exposures(state: State, patients: Patients) -> list[list[Account]]:
    """The plans that count for each kind of patient of the site; empty if there is no plan."""
    known = [_kinds(state, patients, each) for each in range(state.generation + 1)]
    return _combined(known) if any(known) else []


def _combined(generations: Iterable[list[list[Account]]]) -> list[list[Account]]:
    return [list(chain.from_iterable(each)) for each in product(*(kinds for kinds in generations if kinds))]


def _kinds(state: State, patients: Patients, generation: int) -> list[list[Account]]:
    found: list[list[Account]] = []
    for name in _plans(state, generation):
        found += _of(state, patients, generation, patients(name))
    return found


def _of(state: State, patients: Patients, generation: int, digests: frozenset[bytes]) -> list[list[Account]]:
    plans = _plans(state, generation)
    kinds = memberships(digests, {name: patients(name) for name in plans})
    return [[account for name in plans if name in names for account in plans[name]] for names in kinds]


def _plans(state: State, generation: int) -> dict[str, list[Account]]:
    """The plans of a generation of keys that count, by data set."""
    plans: dict[str, list[Account]] = {}
    for account in state.accounts.values():
        if account.generation == generation and not account.withdrawn:
            plans.setdefault(account.plan.dataset, []).append(account)
    return plans
