"""TensorBoard curves of what sites released, one per site and metric."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any


class Curves:
    """Writes rounds as scalars ``train/<metric>/<site>`` and so on; rounds from ``first_round`` on are rewritten."""

    def __init__(self, folder: Path, first_round: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(folder), purge_step=first_round)

    def write(self, record: dict[str, Any]) -> None:
        """Add one finished round (a line of rounds.jsonl)."""
        for phase in ("train", "evaluate"):
            for line in record[phase]:
                released = {
                    key: value for key, value in line.get("released", {}).items() if _is_number(value)
                }
                for key, value in (line.get("metrics", {}) | released).items():
                    self._writer.add_scalar(f"{phase}/{key}/{line['site']}", value, record["round"])
        self._writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
