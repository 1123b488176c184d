"""How often a site's processes look for work: shortly after some came, often; else rarely."""

from __future__ import annotations

import time

_BUSY = 60.0  # seconds for which more is expected after something came


class Pace:
    """Seconds between two looks.

    Args:
        quick: for a minute after something came: a run of single steps asks every few seconds.
        slow: otherwise.
    """

    def __init__(self, quick: float, slow: float) -> None:
        self._quick, self._slow, self._until = quick, slow, 0.0

    def came(self) -> None:
        """Something came."""
        self._until = time.monotonic() + _BUSY

    @property
    def seconds(self) -> float:
        """How long to wait now."""
        return self._quick if time.monotonic() < self._until else self._slow


class NodeTime:
    """Stands for the module `time` in Flower's node, which has no setting for how often it looks.

    Flower 1.41 sleeps for `_NO_MESSAGE` seconds whenever it finds no message, and for `_NO_REPLY` between two looks for
    the reply to one (`tests/deployment/test_flower_contract.py`).
    """

    _NO_MESSAGE, _NO_REPLY = 3, 0.5

    def __init__(self) -> None:
        self._pace = Pace(0.3, self._NO_MESSAGE)

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        """Sleep as long, or shorter where something came a while ago."""
        if seconds == self._NO_REPLY:  # a message is being answered
            self._pace.came()
            seconds = 0.1
        elif seconds == self._NO_MESSAGE:
            seconds = self._pace.seconds
        time.sleep(seconds)
