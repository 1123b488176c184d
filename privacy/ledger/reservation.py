"""What the holder of a reservation holds."""

from __future__ import annotations

import os
from collections.abc import Callable

from privacy.errors import LedgerError


class Reservation:
    """Steps that were charged before they run. Lives in the process that reserved them, and nowhere else.

    Attributes:
        steps: how many steps may run, at most as many as requested.
        round: the round they are for.
    """

    def __init__(self, round: int, steps: int, commit: Callable[[int], None]) -> None:
        self._commit, self._pid, self._done = commit, os.getpid(), False
        self.round, self.steps = round, steps

    def commit(self, steps_run: int) -> None:
        """Lower the charge to the steps that really ran. Never called: all of them stay charged.

        Raises:
            LedgerError: more steps than reserved, a second commit, or another process than the holder's.
        """
        if os.getpid() != self._pid:
            raise LedgerError("A reservation is committed by the process that made it.")
        if self._done:
            raise LedgerError(f"The reservation for round {self.round} was committed already.")
        if isinstance(steps_run, bool) or not isinstance(steps_run, int) or not 0 <= steps_run <= self.steps:
            raise LedgerError(
                f"steps_run must be a whole number from 0 to {self.steps}. Found {steps_run!r}."
            )
        self._commit(steps_run)
        self._done = True

    def __reduce__(self) -> str:
        raise LedgerError("A reservation cannot be copied or sent: it belongs to the process that made it.")
