"""Every encoder, fusion and task: its parameters, what a private step costs, and how exact its clipped sum is.

The registries say what there is. Sizes are small and records are made up, some of them without this or that. A private
step is timed over an ordinary one in turns, in one process on one thread, as in the benchmark `dpsgd`: without noise,
medians of CPU time. The clipped sum of a few patients in float64 is held against its definition, one record at a time
by plain autograd; the difference is the largest of all numbers, over the largest number of the sum.
"""

from __future__ import annotations

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.data.made_up import made_up_records
from mmmed.errors import MmmedError
from mmmed.modalities import MODALITIES, text
from mmmed.modalities.base import Modality
from mmmed.models import MultimodalModel, build_model
from mmmed.models.fusion import FUSIONS
from mmmed.tasks import TASKS
from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.rules import clip_factors
from privacy.clipping.units import Units
from privacy.errors import PrivacyError
from simulations.bench.dpsgd import ORDINARY, Case, stepper
from simulations.bench.measure import Row, parser, publish

_EXACT = 1e-9
_PATIENTS, _FEW = 16, 3  # timed, and held against the definition; each has 1 to 3 records
_SMALL = {"image_size": 64, "volume_size": 32, "text_tokens": 16, "image_width": 8, "volume_width": 8}
_SHORT = 2.0  # seconds of a recording
_FUSED = ("image", "text", "table")  # what a fusion is measured on
_PARTS = ("encoder", "fusion", "task")


@dataclass(frozen=True)
class Entry:
    """One row: what is measured, and a run that has it.

    Attributes:
        part: "encoder", "fusion" or "task".
        name: of the kind; of an encoder with its modality, "image resnet10".
        run: sections of the run's configuration.
    """

    part: str
    name: str
    run: dict[str, Any]


def entries(public: Path) -> Iterator[Entry]:
    """All that the registries know.

    Args:
        public: a file of public text, for the encoders that need one.
    """
    mean = {"kind": "mean", "width": 8}
    for modality in MODALITIES.values():
        for name in _encoders(modality):
            chosen = {modality.name: name} if name else {}
            run = _run([modality], chosen | {"fusion": mean}, public)
            yield Entry("encoder", f"{modality.name} {name or 'default'}", run)
    for kind in FUSIONS.sections:
        yield Entry(
            "fusion", kind, _run([MODALITIES[one] for one in _FUSED], {"fusion": {"kind": kind}}, public)
        )
    for kind in TASKS.sections:
        run = _run([MODALITIES["text"], MODALITIES["table"]], {"fusion": mean}, public)
        yield Entry("task", kind, run | {"task": {"kind": kind}})


def _encoders(modality: Modality) -> tuple[str, ...]:
    """The names of a modality's encoders: the values of its key in ``[model]``; "" where there is none to choose."""
    field = modality.model_keys.model_fields.get(modality.name)
    if field is None:
        return ("",)
    names: tuple[str, ...] = get_args(field.annotation)
    return names or tuple(text._SHIPPED)  # any other is a folder


def _run(modalities: list[Modality], model: dict[str, Any], public: Path) -> dict[str, Any]:
    data: dict[str, Any] = {"image": "", "text": ""}
    for one in MODALITIES.values():
        for key in one.data_keys.model_fields:
            data |= {key: _SHORT} if key.endswith("_seconds") else {}
            data |= {key: _SMALL[key]} if key in _SMALL else {}
        for key in one.model_keys.model_fields:
            model |= {key: _SMALL[key]} if key in _SMALL else {}
            model |= {key: str(public)} if key == "text_public" else {}
    for one in modalities:
        key = one.column_keys[0]
        default = one.data_keys.model_fields[key].get_default()
        column = f"{one.name}_column"
        named: dict[type, Any] = {str: column, tuple: [column]}
        data[key] = named.get(type(default), {column: [0, 1]})
    return {"data": data, "model": model, "privacy": {"metrics": "none"}}


def main(arguments: list[str]) -> int:
    """Measure and print. Returns 1 if a clipped sum is not its definition's."""
    options = parser("zoo", (__doc__ or "").splitlines()[0], repeats=5)
    options.add_argument("--part", choices=_PARTS, action="append", help="only these; may be repeated")
    options.add_argument("--name", help="only what has this in its name")
    asked: Any = options.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        public = Path(folder) / "public.txt"
        public.write_text("no effusion\na small nodule in the left lung\n", encoding="utf-8")
        wanted = [one for one in entries(public) if one.part in (asked.part or _PARTS)]
        found = [measured(one, asked.repeats) for one in wanted if (asked.name or "") in one.name]
    if not found:
        print("Nothing has such a name")
        return 2
    shown = [row | {"difference": f"{row['difference'] or 0:.0e}"} for row in found]
    publish(
        "Encoders, fusions and tasks: a private step over an ordinary one, and its exactness", shown, None
    )
    if asked.json is not None:
        asked.json.write_text(json.dumps({"rows": found}, indent=2) + "\n", encoding="utf-8")
    counts = ", ".join(f"{sum(row['part'] == part for row in found)} {part}s" for part in _PARTS)
    print(f"{counts}; not measured: {sum(bool(row['note']) for row in found)}")
    return int(any((row["difference"] or 0) > _EXACT for row in found))


def measured(entry: Entry, repeats: int) -> Row:
    """The row of one entry; what cannot be built here or trained privately has a note instead of numbers."""
    row: Row = {"part": entry.part, "name": entry.name, "parameters": 0, "ratio": None, "difference": None}
    try:
        config = RunConfig.model_validate(entry.run)
        model = build_model(config)
        nn.init.normal_(model.head.weight)  # one that starts at zero would hide all before it
        records = made_up_records(config, _PATIENTS)
        batch = records.batch(np.arange(len(records)), records.patient)
        row["parameters"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        row["difference"] = difference(config, model, batch[: int((batch.unit < _FEW).sum())])
        row["ratio"] = _ratio(config, model, batch, repeats)
    except (MmmedError, PrivacyError, ValueError) as error:
        return row | {"note": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return row | {"note": ""}


def difference(config: RunConfig, model: MultimodalModel, batch: Batch) -> float:
    """Of the engine's clipped sum in float64 to one record at a time, over the largest number of the sum."""
    target, exact = config.task.target(), copy.deepcopy(model).double().eval()
    inputs = {
        name: replace(one, values=one.values.double() if one.values.is_floating_point() else one.values)
        for name, one in batch.inputs.items()
    }
    batch = replace(batch, inputs=inputs)

    def losses(rows: slice | torch.Tensor) -> torch.Tensor:
        return target.losses(exact(batch[rows]), batch[rows].label)

    gradients = [_gradient(exact, losses, rows) for rows in _of_units(batch.unit)]
    norms = torch.stack([one.norm() for one in gradients])
    bound = float(norms.median())  # about half are clipped
    expected = torch.stack(gradients).mul(clip_factors(norms, bound, "flat")[:, None]).sum(0)
    units, everything = Units.of(batch.unit), slice(None)
    found = BookkeepingEngine(exact).clipped(
        lambda: losses(everything), units, lambda each: clip_factors(each, bound, "flat")
    )
    sums = torch.cat([one.flatten() for one in found.sums.values()])
    return float((sums - expected).abs().max() / expected.abs().max())


def _of_units(unit: torch.Tensor) -> list[torch.Tensor]:
    return [torch.nonzero(unit == one)[:, 0] for one in unit.unique()]


def _gradient(
    model: nn.Module, losses: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor
) -> torch.Tensor:
    """Of the mean over a unit's records, each computed alone, beside a copy of itself.

    Of one image alone PyTorch's own gradient through BatchNorm is wrong where what comes back is transposed, as
    tokens are (efficientnet-lite0; seen in torch 2.13, float64).
    """
    model.zero_grad()
    for row in rows:
        (losses(row.repeat(2))[0] / len(rows)).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.cat(
        [torch.zeros(p.numel()).double() if p.grad is None else p.grad.flatten() for p in trained]
    )
    model.zero_grad()
    return gradient


def _ratio(config: RunConfig, model: MultimodalModel, batch: Batch, repeats: int) -> float:
    """The median over turns of a private step's CPU time over an ordinary one's."""
    target = config.task.target()
    case = Case(model.train(), lambda m: target.losses(m(batch), batch.label), batch.unit)
    steps = [stepper(case, system) for system in (ORDINARY, "bookkeeping")]
    turns = []
    for _ in range(1 + repeats):
        seconds = []
        for step in steps:
            start = time.thread_time()
            step()
            seconds.append(time.thread_time() - start)
        turns.append(seconds[1] / seconds[0])
    return round(statistics.median(turns[1:]), 3)  # the first warms up
