"""S9: whatever a record holds and whatever the parameters are, a step releases one finite, bounded sum.

A step that raises, skips or releases something else because of one record tells of that record without noise.
Records are made extreme by their losses: huge, infinite, not a number, denormal, none at all; parameters by their
scale and by a bias that makes the model sure of its answer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from privacy.audit.long_run import TOLERANCE
from privacy.audit.releases import quiet_step, rows_of
from privacy.audit.result import Check, certain
from privacy.audit.stand_in import stand_in
from privacy.audit.subject import Part, Subject, seeded
from privacy.clipping.validate import trainable

_EXTREMES = (1e4, 1e30, math.inf, -math.inf, math.nan, 0.0, 1e-12, 1e-25, 1e-38, 1e-44)
_FIRST = (math.nan, 1e30, 1e-25)
_CLAIM = "no record changes what kind of answer leaves"


Sequence = list[tuple[str, list[float]]]  # batches: the parameters' name, and factors of the records' losses


def refusal_check(subject: Subject) -> Check:
    """Try extreme records alone and among others, as the first batch and later, under several parameters."""
    everything = [1.0, *_EXTREMES, 1.0]
    own: Sequence = [(parameters, everything) for parameters in _PARAMETERS]
    tried = 0
    for one, sequences in ((stand_in(subject), _sequences()), (subject, [own])):
        for sequence in sequences:
            tried += len(sequence)
            if found := _problem(one, sequence):
                return certain("S9", _CLAIM, found, False)
    return certain("S9", _CLAIM, f"a finite sum, bounded by C a patient, in all {tried} steps", True)


def _sequences() -> list[Sequence]:
    later = [batch for extreme in _EXTREMES for batch in ([1.0, extreme, 1.0], [extreme])]
    first = [[[1.0, extreme], [extreme]] for extreme in _FIRST]
    return [
        [(parameters, batch) for batch in batches]
        for parameters in _PARAMETERS
        for batches in ([[1.0, 1.0], *later, [1.0, 1.0]], *first)
    ]


def _problem(subject: Subject, sequence: Sequence) -> str:
    """What went wrong in a step's sequence of batches, or ""."""
    model = subject.make_model()
    device = next(model.parameters()).device
    # What a step refuses before it is given a record tells of no record.
    step, recorder = quiet_step(subject, model)
    start = copy.deepcopy(model.state_dict())
    records = torch.cat([one[:1] for one in rows_of(subject)])
    for parameters, batch in sequence:
        where = f"losses times {', '.join(f'{factor:g}' for factor in batch)} (parameters: {parameters})"
        rows = records[torch.arange(len(batch)) % len(records)]
        with torch.no_grad():
            model.load_state_dict(start)
            _PARAMETERS[parameters](model)

        def losses(
            part: Part, rows: torch.Tensor = rows, factors: torch.Tensor = torch.tensor(batch, device=device)
        ) -> torch.Tensor:
            return subject.losses(model, rows[part]) * factors[part]

        try:
            with seeded(0):
                step(losses, torch.arange(len(rows)))
        except Exception as error:  # whatever it is, it leaves the site
            return f"{type(error).__name__} for {where}"
        released = recorder.take(subject)
        if len(released) != 1:
            return f"{len(released)} releases for {where}"
        norm = float((released[0] ** 2).sum()) ** 0.5
        if not norm <= TOLERANCE * len(rows):
            return f"a sum of norm {norm:.3g} C for {where}"
    return ""


def _scaled(factor: float) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        for parameter in trainable(model).values():
            parameter.mul_(factor)

    return change


def _sure(model: nn.Module) -> None:
    *_, last = trainable(model).values()
    last.view(-1)[0] += 60.0


_PARAMETERS: dict[str, Callable[[nn.Module], None]] = {
    "as made": _scaled(1.0),
    "times 1e4": _scaled(1e4),
    "times 1e18": _scaled(1e18),
    "times 1e-41": _scaled(1e-41),
    "one class sure": _sure,
}
