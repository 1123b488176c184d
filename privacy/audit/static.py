"""S1, S5 to S7: what can be seen without a statistic."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from privacy.audit.result import Check, certain
from privacy.audit.subject import Subject
from privacy.clipping.validate import trainable, validate_model
from privacy.errors import UnsupportedModel


def model_check(model: nn.Module) -> Check:
    """S1: no batch statistics, no running statistics, only dense real parameters."""
    claim = "the model does not mix patients"
    try:
        validate_model(model)
    except UnsupportedModel as error:
        return certain("S1", claim, str(error), False)
    return certain("S1", claim, "no layer does", True)


def static_checks(subject: Subject) -> list[Check]:
    """S5: the optimiser; S6: what leaves the site; S7: the batches."""
    return [_optimizer(subject), _released(subject), _batches(subject)]


def _optimizer(subject: Subject) -> Check:
    """What the optimiser moves is what the step clips and noises: no more, no less."""
    model = subject.make_model()
    names = {id(parameter): name for name, parameter in trainable(model).items()}
    held = [id(p) for group in subject.make_optimizer(model).param_groups for p in group["params"]]
    missing = [name for key, name in names.items() if key not in held]
    foreign = sum(key not in names for key in held)
    found = f"all {len(names)} trained tensors and no other"
    if missing:
        found = f"{missing[0]} is trained but not held by the optimiser"
    elif foreign or len(set(held)) != len(held):
        found = f"{foreign} tensors that are not the model's trained ones, or one twice"
    return certain("S5", "the optimiser moves what the step noises", found, found.startswith("all "))


def _released(subject: Subject) -> Check:
    """A tensor that leaves the site without passing through the step has no noise."""
    model = subject.make_model()
    bare = sorted(set(subject.released(model)) - set(trainable(model)))
    found = (
        f"{bare[0]} leaves the site without noise"
        if bare
        else "every released tensor passed through the step"
    )
    return certain("S6", "nothing leaves the site but what the step noised", found, not bare)


def _batches(subject: Subject) -> Check:
    """A drawn unit brings its own records, at most as many as claimed, once each, as one unit; nobody else does."""
    count = int(subject.units.max()) + 1
    scattered = np.arange(count - 1, -1, -3)
    draws = [np.empty(0, dtype=np.int64), np.array([count // 2]), scattered, np.arange(count)]
    wrong = next((problem for drawn in draws if (problem := _wrong(subject, drawn))), "")
    found = wrong or f"at most {subject.records_per_unit} records of each drawn patient, none of others"
    return certain("S7", "a batch holds the drawn patients' records and no others", found, not wrong)


def _wrong(subject: Subject, drawn: np.ndarray) -> str:
    rows, units = subject.draw(drawn)
    if len(rows) != len(units):
        return f"{len(rows)} records with {len(units)} units"
    if len(rows.unique()) != len(rows):
        return "a record is in the batch twice"
    if len(units) and not (int(units.min()) >= 0 and int(units.max()) < len(drawn)):
        return "a record belongs to no drawn patient"
    if not torch.equal(subject.units[rows], torch.from_numpy(drawn)[units]):
        return "a record is counted under another patient than its own"
    counts = torch.bincount(units, minlength=len(drawn))
    if len(drawn) and not (int(counts.min()) > 0 and int(counts.max()) <= subject.records_per_unit):
        return f"{int(counts.min())} to {int(counts.max())} records a patient"
    return ""
