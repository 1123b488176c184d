"""The book of one backward pass: per parameter, what its per-unit gradients need and their squared norms."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from privacy.clipping.choose import choose
from privacy.clipping.rules import Groups
from privacy.clipping.shared import Shared
from privacy.clipping.units import Units
from privacy.clipping.use import Direct, Order, Use, as_it_is, squared_norms, wide
from privacy.errors import UntrackedParameter

_PART_BYTES = 1 << 25  # of gradients that exist at one time while norms are recomputed
_SUMMED = 64  # units whose gradients are added in float32
# What rounding may cost a sum that is not made of the gradients whose norms were taken, in units in the last place of
# the sum of its terms' norms: with an error of at most 3, sqrt(n^2 + reserve^2) is at least (n + error) / 1.0001.
RESERVE = 256.0


@dataclass
class _Entry:
    """A parameter's uses so far: either kept per-unit gradients, which `order` puts in order, or the uses themselves.

    `squares` [P] are the squared norms of the sum of all uses; None once there are several, until settled
    (the norms of parts do not add). `reserve` [P] is what rounding may add to a norm, None if that is not known: of
    uses that are held, the sum is then made of recomputed gradients, not of `weighted`.
    """

    parameter: nn.Parameter
    kept: torch.Tensor | None = None
    order: Order = as_it_is
    uses: list[Use] = field(default_factory=list)
    squares: torch.Tensor | None = None
    reserve: torch.Tensor | None = None


class Book:
    """What the operators of one private pass write down.

    Args:
        shared: the trainable parameters, and what is derived from them.
        units: the batch's units, any order.
        memory_share: bytes that kept gradients may take beyond what they are made of, as a share of the inputs that
                operators saw.
        seen_apart: places known to have nothing of one row for each record; kept from batch to batch, since a later
                batch may have as many records as a model has heads, or a note words.
        groups: parts of the model that have norms of their own; one if None.
    """

    def __init__(
        self,
        shared: Shared,
        units: Units,
        memory_share: float,
        seen_apart: set[Hashable],
        groups: Groups | None = None,
    ) -> None:
        self._groups = groups
        self.shared = shared
        self._order = units.order
        self.units = units if self._order is None else Units(units.index[self._order], units.sizes)
        self._memory_share = memory_share
        self._inputs: dict[int, int] = {}  # bytes by address
        self._extra_bytes = 0  # that kept gradients take beyond what they were made of
        self._seen_apart = seen_apart
        self._times: Counter[str] = Counter()
        self._as_given = units
        self._entries: dict[str, _Entry] = {}
        self._direct: dict[str, torch.Tensor] = {}  # rows [R, numel] by name
        self._packs: list[tuple[dict[str, int], torch.Tensor]] = []  # numel by name, and all units' rows

    @property
    def records(self) -> int:
        return self.units.records

    def wants(self, value: object) -> bool:
        """Whether `value` is a trainable parameter of the model, or derived from some."""
        return self.shared.wants(value)

    def saw(self, value: object) -> None:
        """Count an operator's input among what an ordinary step would also hold until the backward pass."""
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            # by address: an input that several operators see is held once
            self._inputs[value.data_ptr()] = value.numel() * value.element_size()

    def refuse(self, parameter: torch.Tensor, reason: str) -> UntrackedParameter:
        return UntrackedParameter(f"{self.shared.name(parameter)}: {reason}")

    def shares(self, table: nn.Parameter, ids: int) -> bool:
        """Whether `ids` is the length of a vector of ids that all records share, and not one id for each record."""
        return not self._of_records(self.shared.name(table), ids == self.records)

    def copies_by_record(self, parameter: torch.Tensor, count: int) -> bool:
        """Whether `count` copies of a parameter are one for each record."""
        return self._of_records(self._place(parameter), count == self.records)

    def apart(self, parameter: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether another input of an operator on a parameter holds nothing of any record.

        A constant may still have rows for each record: a first hidden state or a mask of windows, the same for each.
        """
        if other.dim() == 0:
            return not other.requires_grad
        if other not in self.shared.constants:
            return False
        return not self._of_records(self._place(parameter), self._repeats(other))

    def _repeats(self, constant: torch.Tensor) -> bool:
        """Whether it has the same rows for each record."""
        if constant.dim() < 2 or constant.shape[0] % self.records:
            return False
        rows = constant.unflatten(0, (self.records, -1))
        return bool((rows == rows[:1]).all())

    def _place(self, parameter: torch.Tensor) -> tuple[str, int]:
        """The same one in every batch: how often the parameter was asked about before."""
        name = self.shared.name(parameter)
        self._times[name] += 1
        return name, self._times[name]

    def _of_records(self, place: Hashable, agrees: bool) -> bool:
        """Whether there is one row for each record at a place: sizes agree, and did in every batch before."""
        if not agrees:  # where sizes ever disagreed, agreement in another batch is chance
            self._seen_apart.add(place)
        return place not in self._seen_apart

    def rows(self, tensor: torch.Tensor, parameter: nn.Parameter, inner: int) -> torch.Tensor:
        """[R * m, ...] or [R, m1, m2, ..., *inner dimensions] as [R, m, *inner dimensions].

        Raises:
            UntrackedParameter: the first dimension is not the batch's records.
        """
        if tensor.dim() < inner + 1 or tensor.shape[0] % self.records:
            raise self.refuse(
                parameter,
                f"an operator saw shape {tuple(tensor.shape)}, whose first dimension is not the batch's "
                f"{self.records} records. Keep the records first in every tensor.",
            )
        return tensor.reshape(self.records, -1, *tensor.shape[tensor.dim() - inner :])

    def add(self, parameter: torch.Tensor, use: Use) -> None:
        """Write down one use of a parameter or derived tensor. Its records are in the batch's order."""
        for root, root_use in self.shared.through(parameter, use):
            self._add(root, root_use)

    def _add(self, parameter: nn.Parameter, use: Use) -> None:
        name = self.shared.name(parameter)
        if isinstance(use, Direct) and name not in self._entries:
            rows = use.gradient.reshape(self.records, -1)
            self._direct[name] = self._direct[name] + rows if name in self._direct else rows
            return
        if name in self._direct:  # also used in another way: one gradient, one norm
            self._append(parameter, Direct(self._direct.pop(name)))
        self._append(parameter, use)

    @torch.no_grad()
    def norms(self) -> torch.Tensor:
        """Each unit's gradient norm by group, float64 [G, P]. Call after the backward pass.

        At least the norm of what `sums` adds for the unit, over 1.0001, however badly the gradient's terms cancel:
        where that would not be known, it comes out too large.
        """
        self._pack()
        squares = [(self._group(next(iter(widths))), squared_norms(pack)) for widths, pack in self._packs]
        for name, entry in self._entries.items():
            if entry.squares is None:
                self._resettle(entry)
            assert entry.squares is not None
            squares.append((self._group(name), entry.squares.clamp(min=0.0)))  # a difference of large numbers
        if not squares:
            return torch.zeros(self._group_count, self.units.count, dtype=torch.float64)
        like = squares[0][1]
        rows = like.new_zeros(self._group_count, self.units.count)
        for group in dict.fromkeys(group for group, _ in squares):
            rows[group] = torch.stack([s.to(like.device) for g, s in squares if g == group]).sum(0)
        return rows.sqrt()

    @torch.no_grad()
    def sums(self, factors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sum over units of factors[g, u] times the unit's gradient, flat, by parameter name. Empties the book.

        Args:
            factors: [G, P]. A unit whose factor is 0 adds nothing, even if its gradient is not finite.
        """
        # 0 times NaN is NaN, so units with factor 0 are taken out before anything is multiplied.
        rows = list(
            zip(factors, (row == 0 if bool((row == 0).any()) else None for row in factors), strict=True)
        )
        out: dict[str, torch.Tensor] = {}
        # Emptied one by one, so that each parameter's memory is free before the next sum is made.
        while self._packs:
            widths, pack = self._packs.pop()
            totals = _combined(pack, *rows[self._group(next(iter(widths)))]).split(list(widths.values()))
            out.update(zip(widths, totals, strict=True))
        while self._entries:
            name, entry = self._entries.popitem()
            own, dropped = rows[self._group(name)]
            if entry.kept is not None:
                out[name] = entry.order(_combined(entry.kept, own, dropped))
                continue
            uses = entry.uses
            if entry.reserve is None:
                order = uses[0].order() if len(uses) == 1 else as_it_is
                recomputed = self._in_parts(entry)
                parts = [
                    _combined(rows, own[part], None if dropped is None else dropped[part])
                    for part, rows in recomputed
                ]
                out[name] = order(functools.reduce(torch.add, parts))
            else:
                if dropped is not None:
                    uses = [self._without(use, dropped) for use in uses]
                parts = [use.weighted(own[self.units.index]).flatten() for use in uses]
                out[name] = functools.reduce(torch.add, parts)
        return out

    def _group(self, name: str) -> int:
        return 0 if self._groups is None else self._groups.of[name]

    @property
    def _group_count(self) -> int:
        return 1 if self._groups is None else self._groups.count

    def _append(self, parameter: nn.Parameter, use: Use) -> None:
        order = self._order
        if order is not None:
            use = use.map(lambda tensor: tensor[order.to(tensor.device)])
        name = self.shared.name(parameter)
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry(parameter)
            self._settle(entry, use)
        elif entry.kept is not None:
            # Gradients of two uses can be added only in the parameter's own order; their norms cannot be added.
            entry.kept = entry.order(entry.kept) + use.order()(use.per_unit(self.units))
            more = self._reserve(parameter, [use])
            entry.reserve = None if entry.reserve is None or more is None else entry.reserve + more
            entry.order, entry.squares = as_it_is, None
        else:
            entry.uses.append(use)
            entry.squares = None

    def _pack(self) -> None:
        """Put all direct gradients side by side: models have many, small ones."""
        alike: dict[tuple[int, torch.device, torch.dtype], dict[str, torch.Tensor]] = {}
        for name, rows in self._direct.items():
            alike.setdefault((self._group(name), rows.device, rows.dtype), {})[name] = rows
        self._direct = {}
        for part in alike.values():
            widths = {name: rows.shape[1] for name, rows in part.items()}
            self._packs.append((widths, self._as_given.sum(wide(torch.cat(list(part.values()), 1)))))

    def _without(self, use: Use, dropped: torch.Tensor) -> Use:
        rows = dropped[self.units.index]
        return use.map(
            lambda tensor: tensor.masked_fill(rows.view(-1, *[1] * (tensor.dim() - 1)).to(tensor.device), 0)
        )

    def _settle(self, entry: _Entry, use: Use) -> None:
        """Take the squared norms of a parameter's only use, in the cheapest way."""
        unit_bytes, held = entry.parameter.nbytes, use.held
        kept = unit_bytes * self.units.count
        room = int(self._memory_share * sum(self._inputs.values())) - self._extra_bytes
        way = choose(use.cost(self.units), kept, held, room)
        if way == "keep":
            entry.kept, entry.order, entry.uses = use.per_unit(self.units), use.order(), []
            entry.reserve = self._reserve(entry.parameter, [use])
            entry.squares = _reserved(squared_norms(entry.kept), entry.reserve)
            self._extra_bytes += max(0, kept - held)  # what the use held is freed
        else:
            entry.uses = [use]
            self._settle_later(entry, use.ghost(self.units) if way == "ghost" else None)

    def _resettle(self, entry: _Entry) -> None:
        """Take the squared norms of the sum of several uses."""
        if entry.kept is not None:
            entry.squares = _reserved(squared_norms(entry.kept), entry.reserve)
            return
        kinds = dict.fromkeys(type(use) for use in entry.uses)
        uses = [
            joined for kind in kinds for joined in kind.joined([u for u in entry.uses if type(u) is kind])
        ]
        entry.uses = uses
        if len(uses) == 1:
            self._settle(entry, uses[0])
        else:
            self._settle_later(entry, None)

    def _settle_later(self, entry: _Entry, ghost: torch.Tensor | None) -> None:
        """Of uses that are held: the squared norms, with the reserve for how `weighted` will round them."""
        squares = ghost
        if squares is None:
            squares = torch.cat([squared_norms(rows) for _, rows in self._in_parts(entry)])
        entry.reserve = self._reserve(entry.parameter, entry.uses)
        entry.squares = _reserved(squares, entry.reserve)

    def _reserve(self, parameter: nn.Parameter, uses: list[Use]) -> torch.Tensor | None:
        """What rounding may add to each unit's norm in `weighted`, [P]; None if that is not known.

        Kept gradients have it too, though they need none: the batch decides whether they are kept, and what a unit
        adds may not hang on it.
        """
        reaches = [use.reach(self.units) for use in uses]
        exact = parameter.dtype == torch.float64 and all(use.exact for use in uses)
        eps = torch.finfo(torch.float64 if exact else torch.float32).eps
        known = [reach.sqrt() for reach in reaches if reach is not None]
        return None if len(known) < len(reaches) else RESERVE * eps / 2 * torch.stack(known).sum(0)

    def _in_parts(self, entry: _Entry) -> Iterator[tuple[slice, torch.Tensor]]:
        """A few units at a time, and their gradients [p, numel], equal every time; of one use in its own order."""
        step = max(1, _PART_BYTES // entry.parameter.nbytes)
        for first in range(0, self.units.count, step):
            part, rows = self.units.part(first, first + step)
            # wide, as a weighted sum will be: what is released must have the norm that was bounded
            own = [use.map(lambda tensor, rows=rows: wide(tensor[rows])) for use in entry.uses]  # type: ignore[misc]
            gradients = [use.per_unit(part) for use in own]
            if len(own) > 1:
                gradients = [use.order()(one) for use, one in zip(own, gradients, strict=True)]
            yield slice(first, first + part.count), sum(gradients[1:], start=gradients[0])


def _reserved(squares: torch.Tensor, reserve: torch.Tensor | None) -> torch.Tensor:
    return squares if reserve is None else squares + reserve.square()


def _combined(gradients: torch.Tensor, factors: torch.Tensor, dropped: torch.Tensor | None) -> torch.Tensor:
    """factors [P] times gradients [P, numel], summed over units; over many of them in float64."""
    gradients = wide(gradients)
    if dropped is not None:
        gradients = gradients.masked_fill(dropped[:, None].to(gradients.device), 0.0)
    factors = factors.to(gradients)
    if len(gradients) <= _SUMMED:
        return factors @ gradients
    pairs = zip(factors.split(_SUMMED), gradients.split(_SUMMED), strict=True)
    total = gradients.new_zeros(gradients.shape[1], dtype=torch.float64)
    for own, rows in pairs:
        total += own @ rows
    return total
