"""Witnesses beside the federation: the steps that sites really took, and the memory of what runs for ever."""

from __future__ import annotations

import os
import statistics
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from simulations.loopback.federation import Federation
from simulations.loopback.hospital import LiveHospital

_LOOK = 0.02  # seconds between two looks at a site's progress
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class Steps:
    """How many steps each site was seen to take, attempts that came to nothing included.

    Counted from the progress that a site shows after each step: never more than it took.
    """

    def __init__(self, sites: Sequence[LiveHospital]) -> None:
        self._sites = sites
        self._taken: dict[tuple[str, str], list[int]] = defaultdict(
            list
        )  # (site, run) -> steps of each attempt
        self._last: dict[str, tuple[str, int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def taken(self, site: str, run_id: str) -> int:
        """Number of steps that a site was seen to take in a run."""
        return sum(self._taken[site, run_id])

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            for site in self._sites:
                now = site.training()
                if now is None:
                    continue
                run, server_round, step = self._last.get(site.name, ("", 0, 0))
                if (run, server_round, step) == (now.run_id, now.server_round, now.step):
                    continue
                attempts = self._taken[site.name, now.run_id]
                if (run, server_round) == (now.run_id, now.server_round) and now.step > step:
                    attempts[-1] = now.step
                else:
                    attempts.append(now.step)
                self._last[site.name] = now.run_id, now.server_round, now.step


class Memory:
    """Resident memory (MB, 1e6 bytes) of the services that never end, sampled as time goes by."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._samples: dict[str, list[float]] = defaultdict(list)

    def sample(self) -> None:
        """Read the memory of every service; a service with a process that is being started again is left out."""
        coordinator = self._federation.coordinator
        services = {
            "SuperLink": [coordinator.process("flower-superlink")],
            "executor": [coordinator.process("flower-superexec")],
            "nodes": [site.node_process() for site in self._federation.sites],
            "runners": [site.runner_process() for site in self._federation.sites],
        }
        for name, processes in services.items():
            sizes = [_resident_mb(process) for process in processes]
            if all(sizes):
                self._samples[name].append(sum(sizes))

    def growth(self) -> dict[str, tuple[float, float]]:
        """Median memory of each service in the second quarter of the time, and in the last."""
        found = {}
        for name, samples in self._samples.items():
            quarter = len(samples) // 4
            if quarter:
                early, late = samples[quarter : 2 * quarter], samples[-quarter:]
                found[name] = (round(statistics.median(early), 1), round(statistics.median(late), 1))
        return found


def _resident_mb(process: int | None) -> float:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE_MB
    except (OSError, IndexError):
        return 0.0
