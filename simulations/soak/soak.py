"""The course of a soak, and what must hold after it."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from typing import Any

from mmmed.config import resolve
from mmmed.errors import MmmedError
from server.deployment.folder import Folder
from server.deployment.runs import begin, resume
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.federation import TINY, Federation
from simulations.loopback.undisturbed import equals_undisturbed
from simulations.soak.faults import Faults
from simulations.soak.watch import Memory, Steps

_AT_ONCE = 5  # runs
_LONGEST = 10  # rounds of a run
_RUN = (
    *TINY,
    "training.local_epochs=5",
    "privacy.target_epsilon=0.1",  # many runs share the patients' budget
    "privacy.metrics=none",
    "federation.min_sites=1",
    "federation.round_timeout=120",
)
_LOOK = 0.1  # seconds between two looks at the clock
_ASK = 1.0  # seconds between two looks at the runs
_SAMPLE = 5.0  # seconds between two samples of memory
_LAST = 600.0  # seconds for the last runs to end, undisturbed
_FLAT = 1.1  # memory may grow by so much


class Soak:
    """Runs and faults on a federation that is up."""

    def __init__(
        self, federation: Federation, chance: random.Random, seconds: float, rounds: int, faults: int
    ) -> None:
        """
        Args:
            federation: hospitals and coordinator, started.
            chance: decides on faults and their times.
            seconds: how long runs are begun and disturbed.
            rounds: trained in all, at least.
            faults: at least; they are made at a rate that gives 1.3 times as many.
        """
        self._federation = federation
        self._chance = chance
        self._seconds = seconds
        self._every = seconds / (1.3 * max(faults, 1))
        self._faults = Faults(federation, chance)
        self._memory = Memory(federation)
        self._steps = Steps(federation.sites)
        self._folder = Folder(federation.coordinator.folder)
        self._asked = rounds, faults
        self._rounds = max(1, min(_LONGEST, rounds // 5))  # of a run
        self._config = resolve(None, [*_RUN, f"federation.rounds={self._rounds}"]).config
        self._runs: list[RunHandle] = []
        self._active: list[RunHandle] = []
        self._resumed = 0

    def run(self) -> None:
        """Start runs and inject faults for the set time, then mend everything and let the last runs end."""
        started = time.monotonic()
        operator = threading.Thread(target=self._operate, args=(started + self._seconds,), daemon=True)
        operator.start()  # who asks a SuperLink that hangs waits; what is broken must be mended all the same
        next_fault, next_sample = started + self._every, started
        while (now := time.monotonic()) < started + self._seconds:
            self._faults.mend(now)
            if now >= next_sample:
                self._memory.sample()
                next_sample = now + _SAMPLE
            if now >= next_fault:
                what = self._faults.inject(now)
                print(f"{now - started:6.0f} s  {self._done():3} rounds  {what}", flush=True)
                next_fault += self._chance.uniform(0.5, 1.5) * self._every
            time.sleep(_LOOK)
        self._faults.mend(float("inf"))
        operator.join(_LAST)
        self._steps.close()

    def result(self) -> dict[str, Any]:
        """What happened, as JSON, with the ``claims`` and whether each holds."""
        rounds, faults = self._asked
        records = [record for run in self._runs for record in run.rounds()]
        unchanged = sum(not record["changed"] for record in records)
        missing = self._rounds * len(self._runs) - len(records)
        charged = {
            (site.name, run.name): site.charged(run.run_id) for run in self._runs for site in self._sites
        }
        taken = {
            (site.name, run.name): self._steps.taken(site.name, run.run_id)
            for run in self._runs
            for site in self._sites
        }
        under = sum(max(0, taken[key] - charged[key]) for key in charged)
        differ = [run.name for run in self._runs if not equals_undisturbed(run, self._sites)]
        answers = [line for record in records for line in record["train"]]
        growth = self._memory.growth()
        early, late = (sum(pair[i] for pair in growth.values()) for i in (0, 1))
        for site in self._sites:
            site.audit()  # raises unless its chain holds
        injected = dict(sorted(self._faults.injected.items()))
        return {
            "runs": len(self._runs),
            "resumed": self._resumed,
            "rounds": len(records),
            "lost_rounds": unchanged + missing,
            "updates": sum("refused" not in line for line in answers),
            "refused": sum("refused" in line for line in answers),
            "faults": sum(injected.values()),
            "faults_by_kind": injected,
            "steps_seen": sum(taken.values()),
            "steps_charged": sum(charged.values()),
            "under_charged_steps": under,
            "models_unlike_undisturbed": differ,
            "intrusions_let_in": self._faults.got_in,
            "memory_mb": growth,
            "claims": {
                f"{rounds} rounds or more": len(records) >= rounds,
                f"{faults} faults or more": sum(injected.values()) >= faults,
                "0 lost rounds": unchanged + missing == 0,
                "0 under-charged steps": under == 0,
                "every model is an undisturbed run's": not differ,
                "nobody got in": not self._faults.got_in,
                "flat memory": late <= _FLAT * early,
            },
        }

    @property
    def _sites(self) -> list[Any]:
        return self._federation.sites

    def _done(self) -> int:
        return sum(len(run.rounds()) for run in self._runs)

    def _operate(self, until: float) -> None:
        """Act as the coordinator: start a run when one has ended, resume one that was broken off."""
        while (more := time.monotonic() < until) or self._active:
            with contextlib.suppress(MmmedError):  # no SuperLink, or the last attempt is still ending: later
                for run in list(self._active):
                    self._tend(run)
                if more and len(self._active) < _AT_ONCE:
                    run = RunHandle(self._federation.coordinator, begin(self._folder, self._config))
                    self._runs.append(run)
                    self._active.append(run)
            time.sleep(_ASK)

    def _tend(self, run: RunHandle) -> None:
        state = run.state()
        if state.status == "finished:completed":
            self._active.remove(run)
        elif state.status.startswith("finished"):
            resume(self._folder, run.name)
            self._resumed += 1
