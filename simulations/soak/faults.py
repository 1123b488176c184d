"""The faults that a soak injects: what breaks, how, and when it is mended."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulations.loopback.federation import Federation
from simulations.loopback.hospital import LiveHospital
from simulations.loopback.link import Link, Mode
from simulations.loopback.processes import kill
from simulations.soak.intruder import INTRUSIONS

Undo = Callable[[], None]


@dataclass(frozen=True)
class Fault:
    """One thing that breaks.

    Attributes:
        name: what breaks, and where.
        pause: seconds before the same may break again: a little more than it takes to come back. Flower takes a
            minute to notice that every run's server app died with the executor.
        inject: breaks it; returns what makes it whole, None if it comes back by itself. Raises LookupError if there
            is nothing to break just now.
    """

    name: str
    pause: float
    inject: Callable[[], Undo | None]


class Faults:
    """All faults of a federation, chosen at random; counts what was injected."""

    def __init__(self, federation: Federation, chance: random.Random) -> None:
        self.injected: Counter[str] = Counter()
        self.got_in: list[str] = []  # intrusions that were let in
        self._chance = chance
        self._federation = federation
        self._rests_until: dict[str, float] = {}
        self._undo: list[tuple[float, Undo]] = []
        self._all = [fault for site in federation.sites for fault in self._at(site)]
        self._all += self._at_coordinator()

    def inject(self, now: float) -> str | None:
        """Break something that is not about to recover from its last fault; returns what."""
        ready = [fault for fault in self._all if self._rests_until.get(fault.name, 0.0) <= now]
        self._chance.shuffle(ready)
        for fault in ready:
            try:
                undo = fault.inject()
            except (LookupError, ProcessLookupError):
                continue
            self._rests_until[fault.name] = now + fault.pause
            if undo is not None:
                self._undo.append((now + self._chance.uniform(1.0, 5.0), undo))
            self.injected[fault.name.partition(" at ")[0]] += 1
            return fault.name
        return None

    def mend(self, now: float) -> None:
        """End the faults that have lasted long enough; all of them if `now` is infinite."""
        due = [undo for until, undo in self._undo if until <= now]
        self._undo = [(until, undo) for until, undo in self._undo if until > now]
        for undo in due:
            undo()

    def _at(self, site: LiveHospital) -> Sequence[Fault]:
        link = site.link
        assert link is not None
        where = f"at {site.name}"
        cuts: list[tuple[str, Mode]] = [
            ("network cut", "cut"), ("TLS handshakes broken", "break"), ("black hole", "hole"), ("slow link", "slow"),
        ]  # fmt: skip
        return [
            Fault(f"node killed {where}", 60, lambda: _killed(site.node_process())),
            Fault(f"runner killed {where}", 60, lambda: self._kill(site, site.runner_process())),
            Fault(f"training killed {where}", 30, lambda: self._kill(site, site.task_process())),
            Fault(f"node frozen {where}", 20, lambda: _frozen(site.node_process())),
            Fault(f"training frozen {where}", 20, lambda: _frozen(site.task_process())),
            *(Fault(f"{name} {where}", 15, lambda mode=mode: _set(link, mode)) for name, mode in cuts),  # type: ignore[misc]
        ]

    def _at_coordinator(self) -> Sequence[Fault]:
        coordinator = self._federation.coordinator
        intrusions = [
            Fault(f"intrusion: {name}", 15, lambda name=name: self._intrude(name))  # type: ignore[misc]
            for name in INTRUSIONS
        ]
        return [
            Fault("SuperLink killed", 150, lambda: _killed(coordinator.process("flower-superlink"))),
            Fault("SuperLink frozen", 30, lambda: _frozen(coordinator.process("flower-superlink"))),
            Fault("executor killed", 150, lambda: _killed(coordinator.process("flower-superexec"))),
            Fault("nginx killed", 20, lambda: _killed(coordinator.process("nginx: master"))),
            Fault("server app killed", 60, lambda: _killed(self._chance.choice(coordinator.server_apps() or [0]))),
            *intrusions,
        ]  # fmt: skip

    def _kill(self, site: LiveHospital, process: int | None) -> None:
        """A training that dies is charged, and its plan's last round pays for it. So that no last round is without
        anybody by rights, the last site is spared this one fault."""
        if site is self._federation.sites[-1]:
            raise LookupError
        _killed(process)

    def _intrude(self, name: str) -> None:
        if INTRUSIONS[name](self._federation):
            self.got_in.append(name)


def _killed(process: int | None) -> None:
    if not process:
        raise LookupError
    kill(process)


def _frozen(process: int | None) -> Undo:
    if not process:
        raise LookupError
    os.kill(process, signal.SIGSTOP)

    def thaw() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)

    return thaw


def _set(link: Link, mode: Mode) -> Undo:
    if link.mode != "pass":
        raise LookupError
    link.set(mode)
    return lambda: link.set("pass")
