"""What a private step costs beside an ordinary one: time and memory of each clipping engine.

All systems of a case run in one process on one thread, in turn, so that a change of the machine meets all of them; a
ratio is the median over turns. A step is forward, backward, clipping and the optimiser's move; the noise, the same for
all, is a row of its own. Memory is the peak above the idle process, each system in a fork of its own, before
anything is timed; large blocks go back to the system when they are freed there, so that the peak is what was held
and not how the heap fell to pieces. Each case has a new process, since a heap that was used before hides memory.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from monai.networks.blocks import ResidualUnit
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.models import build_model
from mmmed.models.image import build_image_encoder
from privacy.clipping.opacus import HooksEngine, _HooksModule, _OpacusEngine
from privacy.dpsgd import PrivateStep
from privacy.errors import PrivacyError
from privacy.noise import PrivateRandom
from simulations.bench.measure import MeasurementError, Row, parser, publish

ORDINARY = "ordinary"
NOISE = "noise alone"
SYSTEMS = (ORDINARY, "bookkeeping", "hooks", "ghost", "functorch", NOISE)
_CLASSES = 3
_WATCH = 0.02  # seconds between looks at a process' memory
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's mallopt

Losses = Callable[[nn.Module], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A model, one batch's record losses, and the unit of each record."""

    model: nn.Module
    losses: Losses
    units: torch.Tensor


class _FunctorchEngine(HooksEngine):
    """Opacus with every layer's per-record gradient by `torch.func`."""

    def __init__(self, model: nn.Module) -> None:
        _OpacusEngine.__init__(self, model, functools.partial(_HooksModule, force_functorch=True))


def _config(image: str, width: int, size: int, trainable: str = "full") -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"image": image, "image_width": width, "fusion": {"width": 128}, "trainable": trainable},
            "data": {"image_size": size, "text_tokens": 64},
            "task": {"classes": [str(i) for i in range(_CLASSES)]},
        }
    )


def _image_case(image: Literal["resnet18", "densenet121", "efficientnet-b0"], size: int, batch: int) -> Case:
    encoder = build_image_encoder(_config(image, 64, size).model, 1)
    model = nn.Sequential(encoder, nn.Linear(encoder.width, _CLASSES))
    pixels = Input(torch.randn(batch, 1, size, size), torch.ones(batch, 1, dtype=torch.bool))

    def losses(m: nn.Module) -> torch.Tensor:
        return F.cross_entropy(m(pixels).mean(1), torch.arange(batch) % _CLASSES, reduction="none")

    return Case(model.train(), losses, torch.arange(batch))


def _volume_case(batch: int, size: int) -> Case:
    """The encoder of a 3D U-Net, as MONAI builds its levels."""
    widths = (1, 16, 32, 64, 128)
    levels = [
        ResidualUnit(3, a, b, strides=2, subunits=2, norm=("INSTANCE", {"affine": True}), act="PRELU")
        for a, b in itertools.pairwise(widths)
    ]
    model = nn.Sequential(*levels, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(widths[-1], _CLASSES))
    volumes = torch.randn(batch, 1, size, size, size)

    def losses(m: nn.Module) -> torch.Tensor:
        return F.cross_entropy(m(volumes), torch.arange(batch) % _CLASSES, reduction="none")

    return Case(model.train(), losses, torch.arange(batch))


def _bert_case(batch: int, tokens: int) -> Case:
    from transformers import BertConfig, BertModel

    bert = BertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertModel(bert, add_pooling_layer=False)
    ids = torch.randint(1, 8000, (batch, tokens))
    return Case(
        model.train(), lambda m: m(input_ids=ids).last_hidden_state.square().mean((1, 2)), torch.arange(batch)
    )


def _fusion_case(batch: int, size: int, per_patient: int = 1, trainable: str = "full") -> Case:
    tokens = 64
    model = build_model(_config("resnet18", 64, size, trainable))
    units = torch.arange(batch) // per_patient
    data = Batch(
        inputs={
            "image": Input(torch.rand(batch, 1, size, size), torch.ones(batch, 1, dtype=torch.bool)),
            "text": Input(torch.randint(1, 50, (batch, tokens)), torch.ones(batch, tokens, dtype=torch.bool)),
        },
        label=torch.arange(batch) % _CLASSES,
        unit=units,
    )
    return Case(model.train(), lambda m: F.cross_entropy(m(data), data.label, reduction="none"), units)


def _bfloat16(case: Case) -> Case:
    """The same case under bfloat16 autocast, for every system including the ordinary step."""

    def losses(model: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return case.losses(model)

    return replace(case, losses=losses)


@dataclass(frozen=True)
class Setup:
    """How a case is built from a batch and a size, the sizes that are run if none is asked for, and their unit."""

    build: Callable[[int, int], Case]
    sizes: tuple[int, ...]
    unit: str = "px"


CASES: dict[str, Setup] = {
    "fusion": Setup(lambda batch, size: _fusion_case(batch, size), (128, 224)),
    "fusion, bfloat16": Setup(lambda batch, size: _bfloat16(_fusion_case(batch, size)), (128,)),
    "fusion, 4 records a patient": Setup(lambda b, size: _fusion_case(b, size, per_patient=4), (128,)),
    "fusion, norms and biases": Setup(lambda b, size: _fusion_case(b, size, trainable="norm-bias"), (128,)),
    "fusion, LoRA": Setup(lambda b, size: _fusion_case(b, size, trainable="lora"), (128,)),
    "fusion, frozen encoders": Setup(lambda b, size: _fusion_case(b, size, trainable="fusion-head"), (128,)),
    "ResNet18": Setup(lambda batch, size: _image_case("resnet18", size, batch), (128,)),
    "DenseNet121": Setup(lambda batch, size: _image_case("densenet121", size, batch), (128,)),
    "EfficientNet-B0": Setup(lambda batch, size: _image_case("efficientnet-b0", size, batch), (128,)),
    "3D U-Net encoder": Setup(lambda batch, size: _volume_case(batch, size), (32,), "voxels"),
    "BERT-mini": Setup(lambda batch, size: _bert_case(batch, size), (128,), "tokens"),
    "BERT-mini, bfloat16": Setup(lambda batch, size: _bfloat16(_bert_case(batch, size)), (128,), "tokens"),
}


def stepper(case: Case, system: str) -> Callable[[], None]:
    """A function that takes one step. Raises PrivacyError if the system refuses the case."""
    model = copy.deepcopy(case.model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    if system == ORDINARY:

        def ordinary() -> None:
            optimizer.zero_grad()
            case.losses(model).mean().backward()
            optimizer.step()

        return ordinary
    if system == NOISE:
        sums = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]

        def noise() -> None:
            PrivateRandom().add_gaussian_(sums, 1.0)

        return noise
    step = PrivateStep(
        model,
        optimizer,
        noise_multiplier=0.0,
        allow_noiseless=True,
        max_grad_norm=1.0,
        expected_units=len(case.units),
        engine="hooks" if system == "functorch" else system,  # type: ignore[arg-type]
    )
    if system == "functorch":
        step._engine = _FunctorchEngine(model)
    step._probed = True  # the check of the first batch is no part of a step
    return lambda: step(lambda: case.losses(model), case.units)


def _memory_of(case: Case, system: str, limit_mb: int) -> float | str:
    """Peak MB (1e6 bytes) above the idle process in two steps, or why there is none."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        c = ctypes.CDLL(None)
        c.mallopt(_MMAP_THRESHOLD, 1 << 20)
        try:
            take_step = stepper(case, system)
            c.malloc_trim(0)  # what is free already would hide what the step takes
            Path("/proc/self/clear_refs").write_text("5")  # the peak so far is the parent's
            idle = _status("VmRSS")
            send.send(idle)
            take_step()
            take_step()
            send.send((_status("VmHWM") - idle) / 1e6)
        except PrivacyError:
            send.send("refused")

    process = context.Process(target=child)
    process.start()
    send.close()  # so that the child's end is noticed
    heard: list[Any] = []
    try:
        while len(heard) < 2 and "refused" not in heard:
            if receive.poll(_WATCH):
                heard.append(receive.recv())
            elif heard and (_status("VmRSS", process.pid) - heard[0]) / 1e6 > limit_mb:
                process.kill()
                heard.append(math.inf)
    except (EOFError, OSError) as error:
        raise MeasurementError(f"{system}: the process that measures memory died") from error
    finally:
        process.join()
    found: Any = heard[-1]
    return "does not fit" if found != "refused" and found > limit_mb else found


def _status(key: str, pid: int | str | None = "self") -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no {key}")


def compare_anew(name: str, batch: int, size: int, *arguments: Any) -> list[Row]:
    """`compare` in a new process, whose memory no earlier case has touched.

    Args:
        name: of the case, a key of `CASES`.
        batch: records of a batch.
        size: pixels or voxels a side, or tokens.
        arguments: `repeats`, `limit_mb` and `systems`, as `compare` takes them.

    Returns:
        One row a system.

    Raises:
        MeasurementError: a process that measures memory died.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_compare_here, name, batch, size, *arguments).result()


def _compare_here(name: str, batch: int, size: int, *arguments: Any) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return compare(_label(name, size), CASES[name].build(batch, size), *arguments)


def _label(name: str, size: int) -> str:
    return f"{name}, {size} {CASES[name].unit}"


def compare(name: str, case: Case, repeats: int, limit_mb: int, systems: Sequence[str]) -> list[Row]:
    """Measure the systems on one case: median CPU-seconds a step, ratio to an ordinary step, peak memory in MB.

    Args:
        name: of the case, as the table shows it.
        case: model, losses and units.
        repeats: turns that are timed, after one that is not.
        limit_mb: memory that a system may take, 1e6 bytes; one that takes more gets a note instead of numbers.
        systems: of `SYSTEMS`.

    Returns:
        One row a system.
    """
    memory = {system: _memory_of(case, system, limit_mb) for system in systems}
    steps = {system: stepper(case, system) for system in systems if not isinstance(memory[system], str)}
    for take_step in steps.values():
        take_step()
    seconds: dict[str, list[float]] = {system: [] for system in steps}
    for _ in range(repeats):
        for system, take_step in steps.items():
            start = time.thread_time()
            take_step()
            seconds[system].append(time.thread_time() - start)
    rows: list[Row] = []
    for system, peak in memory.items():
        row: Row = {"case": name, "batch": len(case.units), "system": system}
        if isinstance(peak, str):
            rows.append(row | {"cpu_s": None, "ratio": None, "peak_mb": None, "note": peak})
            continue
        own = seconds[system]
        base = seconds.get(ORDINARY)
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True)) if base else None
        measured = {
            "cpu_s": round(statistics.median(own), 4),
            "ratio": None if ratio is None else round(ratio, 3),
            "peak_mb": round(peak, 1),
        }
        rows.append(row | measured | {"note": ""})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run, print a table, and write the rows to a file if asked. Cases that the file has are not run again."""
    options = parser("dpsgd", (__doc__ or "").splitlines()[0], repeats=7)
    options.add_argument(
        "--batch", type=int, action="append", help="records in a batch; may be repeated (default: 16)"
    )
    options.add_argument(
        "--size", type=int, help="pixels, voxels or tokens a side, in place of each case's own sizes"
    )
    options.add_argument(
        "--memory",
        type=int,
        default=6000,
        metavar="MB",
        help="leave out what needs more than this (default: %(default)s)",
    )
    options.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the rows there (PNG, SVG; needs matplotlib)"
    )
    options.add_argument(
        "--case", action="append", choices=list(CASES), help="only this case; may be repeated"
    )
    options.add_argument(
        "--system",
        action="append",
        choices=SYSTEMS[1:],
        help="only this beside the ordinary step; repeatable",
    )
    arguments: Any = options.parse_args(argv)
    systems = [name for name in SYSTEMS if name == ORDINARY or name in (arguments.system or SYSTEMS)]
    found: list[Row] = []
    if arguments.json is not None and arguments.json.exists():
        found = json.loads(arguments.json.read_text(encoding="utf-8"))["rows"]
    for name, batch in itertools.product(arguments.case or CASES, arguments.batch or [16]):
        setup = CASES[name]
        for size in (arguments.size,) if arguments.size else setup.sizes:
            if any((row["case"], row["batch"]) == (_label(name, size), batch) for row in found):
                continue
            found += compare_anew(name, batch, size, arguments.repeats, arguments.memory, systems)
            publish("One step, one thread", found, arguments.json)
    if arguments.plot is not None:
        draw(found, arguments.plot)
    return 0


def draw(found: list[Row], file: Path) -> None:
    """Time and memory of each system over those of the ordinary step, a group of bars a case and batch."""
    from matplotlib.figure import Figure

    found = [row for row in found if row["ratio"] is not None]
    groups = list(dict.fromkeys((row["case"], row["batch"]) for row in found))
    systems = [name for name in SYSTEMS if name not in (ORDINARY, NOISE)]
    ordinary = {(row["case"], row["batch"]): row for row in found if row["system"] == ORDINARY}
    figure = Figure(figsize=(11, 1.5 + 0.55 * len(groups)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    thick = 0.8 / len(systems)
    for i, system in enumerate(systems):
        rows = [row for row in found if row["system"] == system]
        places = [
            groups.index((row["case"], row["batch"])) + (i - (len(systems) - 1) / 2) * thick for row in rows
        ]
        memory = [row["peak_mb"] / max(ordinary[row["case"], row["batch"]]["peak_mb"], 1.0) for row in rows]
        for axis, values in zip(axes, ([row["ratio"] for row in rows], memory), strict=True):
            axis.barh(places, values, thick, label=system)
    for axis, title, aim in zip(axes, ("CPU time", "peak memory"), (1.2, 1.4), strict=True):
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.axvline(aim, color="black", linewidth=0.8, linestyle=":")
        axis.set_title(f"{title} over an ordinary step (dotted: {aim:g})")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim(left=0.5)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(groups)), [f"{case}, {batch}" for case, batch in groups])
    axes[0].set_ylim(len(groups) - 0.4, -0.6)
    axes[1].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
