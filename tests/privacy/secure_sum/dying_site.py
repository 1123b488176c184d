"""A site in a process of its own, which kills itself before the n-th thing that it does.

Arguments: folder, n (0: never). It answers step 1 and writes what it sends to FOLDER/sent; what it does goes to
FOLDER/events, a line each.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.privacy.secure_sum import federation
from tests.privacy.secure_sum.federation import (
    FileAccount,
    Request,
    Site,
    identity,
    make_terms,
    name,
    names,
)


def main(folder: Path, fatal: int) -> None:
    events = os.open(folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def step(what: str) -> None:
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(events, f"{what}\n".encode())

    def traced(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            step(what)
            return function(*arguments)

        return call

    def draw() -> np.ndarray:
        step("draw")
        return np.zeros(make_terms().dimension)

    account = FileAccount(folder / "run" / f"{name(0)}.ledger")
    site = Site(folder / "run" / name(0), name(0), identity(name(0)), make_terms(), account)
    account.charge = traced("charge", account.charge)
    os.fsync, os.replace = traced("flush", os.fsync), traced("rename", os.replace)
    answer = site.answer(Request(1, 1, names(4), federation.MODEL), draw)
    step("send")
    (folder / "sent").write_bytes(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
