"""What time it is, as far as a ledger can know.

The wall clock can be wrong, and be set. The clock that counts from the machine's boot cannot be set, but begins anew at
each boot. A ledger's `Mark` holds both, side by side, and two times follow from it:

* `passed`: time that has passed for certain. Charges are dated by it, and leave a policy's ``period`` by it. While the
  machine runs it is the boot clock's; a step of the wall clock moves it neither way. Time for which the machine was off
  shows on the wall clock alone: it counts once that clock has gone on by the boot clock for an hour after the boot.
* `latest`: the wall clock, or `passed` where that is later. A policy's last day is judged by it, so that a wrong clock
  refuses for as long as it is wrong, and one that was turned back gains nothing.

What cannot be known: a clock that stands ahead at the first reading after a boot, and for an hour after it, reads the
same as a machine that was off for so long. One that was wrong when the ledger was made is wrong in all its dates alike.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

SETTLING = 3600.0  # seconds after a boot for which the wall clock must go on by the boot clock
SLACK = 60.0  # seconds by which the two may part before that is a step
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LEAST = 1e-3  # seconds; keeps what is dated from now on apart from what was dated before


@dataclass(frozen=True)
class Reading:
    """Both clocks at one moment.

    Attributes:
        wall: seconds since the epoch, by the wall clock.
        up: seconds since the machine's boot, with those for which it slept.
        boot: names the boot; "" where the system has no such clock, so that the wall clock alone is left.
    """

    wall: float
    up: float
    boot: str


def read() -> Reading:
    """Both clocks, now."""
    try:
        boot, up = _BOOT.read_text().strip(), time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, AttributeError):  # no Linux
        boot, up = "", 0.0
    return Reading(time.time(), up, boot)


@dataclass(frozen=True)
class Mark:
    """Both clocks as they were when an entry was written: the first, one after a boot, after a step, after settling.

    Attributes:
        time: `passed` then, seconds since the epoch.
        wall, up, boot: see `Reading`.
        lead: how far the wall clock was ahead of `time` when the two were last known to go together, seconds.
        since: `passed` at the last entry before the machine was off, while that time does not count yet; else None.
        gap: the time off that this mark makes count, seconds.
    """

    time: float
    wall: float
    up: float
    boot: str
    lead: float = 0.0
    since: float | None = None
    gap: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return dict(self.__dict__)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(**value)


def passed(mark: Mark | None, newest: float, now: Reading) -> float:
    """The time up to which time has passed for certain, seconds since the epoch.

    Args:
        mark: the ledger's newest; None in a ledger that has none.
        newest: when its newest entry was dated; 0 for one without entries.
        now: both clocks.
    """
    if not now.boot or not newest:
        return max(newest, now.wall)
    if mark is None:  # of a version that noted none: the boot may have been before its newest entry
        return newest
    since = mark.time - mark.up if mark.boot == now.boot else newest  # this boot is younger than that entry
    return max(newest, since + now.up)


def renewed(mark: Mark | None, newest: float, now: Reading) -> Mark | None:
    """The mark that the next entry must carry; None if `mark` still says all. Arguments as in `passed`."""
    if not now.boot:
        return None
    date = passed(mark, newest, now)
    if mark is None:
        since = newest or None
        return Mark(date + (_LEAST if since else 0.0), now.wall, now.up, now.boot, 0.0, since)
    if mark.boot != now.boot:
        since = newest if mark.since is None else mark.since
        return Mark(date, now.wall, now.up, now.boot, mark.lead, since)
    step = (now.wall - mark.wall) - (now.up - mark.up)
    if abs(step) > SLACK:
        # after time off a step back takes from what the clock claims for it; a step ahead, in one boot, is no time
        lead = mark.lead + (step if mark.since is None else max(step, 0.0))
        return Mark(date, now.wall, now.up, now.boot, lead, mark.since)
    if mark.since is None or now.up - mark.up < SETTLING:
        return None
    gap = max(0.0, mark.wall - mark.lead - mark.time)
    return Mark(date + gap, now.wall, now.up, now.boot, now.wall - date - gap, None, gap)


@dataclass(frozen=True)
class Clock:
    """Both times of a ledger, for people.

    Attributes:
        passed: seconds since the epoch up to which time has passed for certain.
        wall: the wall clock.
        settles: seconds until the time for which the machine was off counts; None if nothing waits.
    """

    passed: float
    wall: float
    settles: float | None

    @classmethod
    def of(cls, mark: Mark | None, newest: float, now: Reading) -> Self:
        """What a ledger's mark and a reading say. Arguments as in `passed`."""
        settles = None
        if mark is not None and mark.boot == now.boot and mark.since is not None:
            settles = max(0.0, SETTLING - (now.up - mark.up))
        elif now.boot and newest and (mark is None or mark.boot != now.boot):
            settles = SETTLING
        return cls(passed(mark, newest, now), now.wall, settles)

    @property
    def latest(self) -> float:
        """The wall clock, or `passed` where that is later."""
        return max(self.wall, self.passed)
