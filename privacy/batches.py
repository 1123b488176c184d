"""Batches of privacy units from any torch data set, and whose records they are.

What acts on a unit's records must be that unit's alone: through a random stream that records share, one more unit would
change what all others get (`privacy.unseeded`). Which of a unit's records are used is drawn for that unit from the
private domain. A data set's random transforms run under global generators whose states are secret, and new for each
record, in worker processes as well; so does the collate function, once a batch. What the data set must see to itself:
a transform that keeps a generator of its own must leave it unseeded, or seed it from the worker's seed, which is
secret too; and nothing may mix the records of two units.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, Sampler

from privacy.errors import SamplingError, StepError
from privacy.noise import PrivateRandom
from privacy.unseeded import secret_state, unseeded


@dataclass(frozen=True)
class Part:
    """What the loader knows of the records that it gave last.

    Attributes:
        units: int64 [R], the unit of each record.
        first, last: whether it is the first, or the last, part of its batch.
        opens_pass: whether it is the first part of a pass over the data.
    """

    units: torch.Tensor
    first: bool
    last: bool
    opens_pass: bool


class UnitLoader:
    """Gives one batch for each draw of units, in parts that fit in memory; units stay whole.

    Every batch must be stepped on, an empty one too (it comes as tensors of 0 records): the accounting counts on
    it, and a batch that was left out for what is in it would tell who is in it.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        units: np.ndarray,
        draws: Iterable[np.ndarray],
        *,
        records_per_unit: int | None,
        max_records: int | None,
    ) -> None:
        """
        Args:
            loader: its data set, collate function, workers and other settings are used; its sampler is not.
            units: int64 [records], the unit of each record of the data set, 0 .. N - 1.
            draws: gives the units of each batch; iterated once a pass.
            records_per_unit: at most so many of a unit's records a step, drawn afresh each time; None for all.
            max_records: of one part, unless a single unit has more; None for the whole batch.
        """
        self.dataset = loader.dataset
        self._draws = draws
        self._parts = _Parts(units, draws, records_per_unit, max_records)
        self._records, self._collate = _Unseeded(loader.dataset), _Collate(loader.collate_fn)
        self._open: Part | None = None
        workers = loader.num_workers
        generator = torch.Generator()  # of the workers' seeds
        generator.set_state(secret_state())
        self._loader: DataLoader[Any] = DataLoader(
            self._records,
            batch_sampler=_Batches(self._parts),
            collate_fn=self._collate,
            generator=generator,
            num_workers=workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context if workers else None,
            prefetch_factor=loader.prefetch_factor if workers else None,
            persistent_workers=loader.persistent_workers if workers else False,
        )

    def __len__(self) -> int:
        """Batches (steps) of one pass."""
        return len(self._draws)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        self._parts.given.clear()
        self._open = None
        for batch in self._loader:
            self._refuse_open()
            self._open = self._parts.given.popleft()
            yield self._empty() if isinstance(batch, _Nothing) else batch
        self._refuse_open()

    def take(self) -> Part:
        """The part that was given last. Each can be taken once.

        Raises:
            StepError: there is none.
        """
        part, self._open = self._open, None
        if part is None:
            raise StepError("Take exactly one optimizer step for each batch of the private loader.")
        return part

    def _refuse_open(self) -> None:
        if self._open is not None:
            raise SamplingError(
                "A batch was not stepped on. Step on every batch of the private loader, empty or not."
            )

    def _empty(self) -> Any:
        def none(leaf: Any) -> Any:
            return leaf[:0] if isinstance(leaf, torch.Tensor) else None

        return pytree.tree_map(none, self._collate([self._records[0]]))


class _Parts:
    """The indices of each part, with `given` what is known of it, in the same order."""

    def __init__(
        self,
        units: np.ndarray,
        draws: Iterable[np.ndarray],
        records_per_unit: int | None,
        max_records: int | None,
    ) -> None:
        self._draws, self._limit, self._max = draws, records_per_unit, max_records
        order = np.argsort(units, kind="stable")
        self._of_unit = np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
        self.given: deque[Part] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        opens = True
        for drawn in self._draws:
            parts = self._split([(int(unit), self._records(int(unit))) for unit in drawn])
            for i, part in enumerate(parts):
                ids = np.repeat([unit for unit, _ in part], [len(rows) for _, rows in part])
                units = torch.from_numpy(ids.astype(np.int64))
                self.given.append(Part(units, i == 0, i == len(parts) - 1, opens))
                opens = False
                yield [int(row) for _, rows in part for row in rows]

    def _records(self, unit: int) -> np.ndarray:
        rows = self._of_unit[unit]
        if self._limit is None or len(rows) <= self._limit:
            return rows
        lots = PrivateRandom().integers(len(rows), 1 << 31)
        return rows[np.argsort(lots)[: self._limit]]

    def _split(self, chosen: Sequence[tuple[int, np.ndarray]]) -> list[list[tuple[int, np.ndarray]]]:
        parts: list[list[tuple[int, np.ndarray]]] = [[]]
        size = 0
        for unit, rows in chosen:
            if self._max is not None and parts[-1] and size + len(rows) > self._max:
                parts.append([])
                size = 0
            parts[-1].append((unit, rows))
            size += len(rows)
        return parts


class _Batches(Sampler[list[int]]):
    def __init__(self, parts: _Parts) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._parts)


class _Unseeded(Dataset[Any]):
    """A data set whose records are read one by one, each under secret random states of its own."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self._inner = inner

    def __getitem__(self, row: int) -> Any:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[Any]:
        records = []
        with unseeded() as renew:
            for row in rows:
                records.append(self._inner[row])
                renew()
        return records

    def __getattr__(self, name: str) -> Any:
        # A worker_init_fn finds this in place of the data set.
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)


class _Nothing:
    """A batch of no record, which collate functions do not make."""


class _Collate:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._inner = collate

    def __call__(self, records: list[Any]) -> Any:
        with unseeded():
            return self._inner(records) if records else _Nothing()
