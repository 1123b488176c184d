"""What `mmmed privacy audit` examines: a run's own model, step, sampler and batches, on made-up records.

The records are written to a temporary folder and read back as a hospital's are. No patient is read and no
budget is spent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from client.mechanism import patient_batches, private_draws, private_step
from client.rounds import device
from mmmed.config import DataConfig, RunConfig
from mmmed.data.batch import part_slices
from mmmed.data.loader import load_site
from mmmed.data.manifest import read_manifest
from mmmed.models import build_model, load_tokenizer, trainable_state
from mmmed.training import batch_losses, make_optimizer
from mmmed.training.loop import MICROBATCH
from privacy.accounting import DpSgdEvent
from privacy.audit import PartLosses, Step, Subject
from privacy.dpsgd import PrivateStep

_PATIENTS = 64  # of whom a quarter is held out, as at a site
_WORDS = 12  # of a note


class _InParts:
    """The private step, given a batch part by part as `mmmed.training.train` gives it."""

    def __init__(self, step: PrivateStep) -> None:
        self._step = step

    def __call__(self, losses: PartLosses, units: torch.Tensor) -> None:
        for part in part_slices(units, MICROBATCH):
            self._step.accumulate(lambda part=part: losses(part), units[part])  # type: ignore[misc]
        self._step.finish()


@contextmanager
def run_subject(config: RunConfig, event: DpSgdEvent) -> Iterator[Subject]:
    """What a site runs under `config` with the mechanism `event`, on records that are made up and then deleted.

    Raises:
        ModelError: the model cannot be built.
    """
    with tempfile.TemporaryDirectory(prefix="mmmed-audit-") as folder:
        root = Path(folder)
        made_up = config.model_copy(update={"data": _write_records(root, config)})
        tokenizer = load_tokenizer(config.model.text) if config.data.text else None
        manifest = read_manifest(root, made_up.data, made_up.task)
        records = load_site(manifest, made_up, tokenizer, root / "images").train
        batches = patient_batches(records, made_up, seed=0)

        def make_model() -> nn.Module:
            return build_model(config).to(device()).train()

        def losses(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
            batch = records.batch(rows.numpy(), np.arange(len(rows))).to(device())
            return batch_losses(model, batch, config.training.precision)

        def draw(drawn: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            chosen, unit = batches.choose(0, drawn)
            return torch.from_numpy(chosen), torch.from_numpy(unit)

        def make_step(model: nn.Module, optimizer: torch.optim.Optimizer, noise_multiplier: float) -> Step:
            return _InParts(private_step(model, optimizer, config, noise_multiplier))

        yield Subject(
            make_model=make_model,
            losses=losses,
            units=torch.from_numpy(records.patient),
            make_step=make_step,
            make_sampler=lambda units, steps: private_draws(units, event.sampling_rate, steps),
            draw=draw,
            records_per_unit=config.training.records_per_patient,
            make_optimizer=lambda model: make_optimizer(model, config.training),
            released=lambda model: trainable_state(model).keys(),
            claim=event,
            delta=config.privacy.delta,
            max_grad_norm=config.privacy.max_grad_norm,
            expected_units=config.training.batch_size,
        )


def _write_records(root: Path, config: RunConfig) -> DataConfig:
    """Random images and notes under the configured names of columns; returns the configuration to read them.

    Patients have one record up to one more than a batch takes of them; a record now and then lacks its image or note.
    """
    data, generator = config.data, np.random.default_rng(0)
    words = np.array(
        ["no", "the", "a", "is", "and", "with", "of", "lesion", "left", "right", "small", "large"]
    )
    rows = []
    for patient in range(_PATIENTS):
        for number in range(1 + patient % (config.training.records_per_patient + 1)):
            row = {
                data.patient: f"patient-{patient:03}",
                data.study: f"study-{patient:03}-{number}",
                data.site: "made-up",
                config.task.label: config.task.classes[(patient + number) % len(config.task.classes)],
            }
            lacking = int(generator.integers(8)) if data.image and data.text else -1
            if data.image:
                row[data.image] = "" if lacking == 0 else f"{patient:03}-{number}.png"
                shape = (data.image_size, data.image_size, data.image_channels)
                pixels = generator.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels.squeeze()).save(root / f"{patient:03}-{number}.png")
            if data.text:
                row[data.text] = "" if lacking == 1 else " ".join(generator.choice(words, _WORDS))
            rows.append(row)
    pd.DataFrame(rows).to_csv(root / "data.csv", index=False)
    plain = {"source": str(root), "table": "data.csv", "where": {}, "fold": "", "drop_shared_patients": False}
    return data.model_copy(update=plain)
