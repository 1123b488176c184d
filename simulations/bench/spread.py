"""How much of a record's gradient is its own: what `mmmed privacy plan --spread` takes, measured.

Gradients of the loss of single records, two of each patient, of one site, before training and in its course (without
privacy). What all share is the mean over pairs of patients, which no record biases; what is a patient's own, the rest
of what the patient's two records share; what is a record's own, all else. Each is a mean squared length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from client.mechanism import patient_batches
from client.simulated import simulated_manifest
from mmmed.config import RunConfig, resolve
from mmmed.data.loader import Records, open_site_data
from mmmed.models import FrozenEncoders, MultimodalModel, build_model
from mmmed.paths import feature_cache, image_cache
from mmmed.tasks.base import Target
from mmmed.training import PlainStep, make_optimizer, train
from simulations.bench.measure import Row, parser, publish

_BATCH = 64


def main(arguments: list[str]) -> int:
    """Run the benchmark."""
    options = parser("spread", (__doc__ or "").splitlines()[0], repeats=3)
    options.add_argument("--config", type=Path, help="TOML file; default: generated hospitals")
    options.add_argument("--set", action="append", default=[], help="section.key=value; may be repeated")
    options.add_argument("--site", help="default: the first")
    options.add_argument("--patients", type=int, default=100, help="whose gradients (default: %(default)s)")
    options.add_argument("--steps", type=int, default=8, help="between measurements (default: %(default)s)")
    asked = options.parse_args(arguments)
    config = resolve(asked.config, asked.set).config
    model = build_model(config)
    records = _records(config, model, asked.site)
    target = config.task.target()
    optimizer, rng = make_optimizer(model, config.training), np.random.default_rng(0)
    found: list[Row] = []
    for number in range(asked.repeats):
        found.append({"steps": number * asked.steps, **_measured(model, target, records, asked.patients)})
        size = min(_BATCH, records.patients)
        draws = [rng.choice(records.patients, size, replace=False) for _ in range(asked.steps)]
        train(model, config, PlainStep(optimizer), draws, patient_batches(records, config, 0))
    publish("Squared length of what is a record's own over what all share", found, asked.json)
    return 0


def _records(config: RunConfig, model: MultimodalModel, site: str | None) -> Records:
    manifest = simulated_manifest(config)
    one = manifest.of_site(site or manifest.sites[0])
    data = open_site_data(one, config, image_cache())
    if config.model.trainable in ("lora", "fusion-head"):
        data = FrozenEncoders(model, config, feature_cache()).site(data)
    return data.train


def _measured(model: MultimodalModel, target: Target, records: Records, patients: int) -> Row:
    pairs = [np.flatnonzero(records.patient == patient)[:2] for patient in range(records.patients)]
    pairs = [pair for pair in pairs if len(pair) == 2][:patients]
    one, two = (torch.stack([_gradient(model, target, records, pair[i]) for pair in pairs]) for i in (0, 1))
    mean, count = (one + two) / 2, len(pairs)
    # Inner products of two patients' means: unbiased for the squared length of what all share.
    shared = float((mean.sum(0).square().sum() - mean.square().sum()) / (count * (count - 1)))
    within = float((one * two).sum(1).mean())
    total = float((one.square().sum(1).mean() + two.square().sum(1).mean()) / 2)
    return {
        "patients": count,
        "parameters": one.shape[1],
        "shared": f"{shared:.3g}",
        "a patient's own": f"{within - shared:.3g}",
        "a record's own": f"{total - within:.3g}",
        "spread": f"{(total - shared) / shared:.1f}" if shared > 0 else "lost in the sampling error",
    }


def _gradient(model: MultimodalModel, target: Target, records: Records, row: int) -> torch.Tensor:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    batch = records.batch(np.array([row]), np.array([0]))
    loss = target.losses(model(batch), batch.label).sum()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients]).double()
