"""One patient more or less moves what a site's steps sum by that patient's clipped gradient, and by nothing else.

Two data sets that differ by one patient go through the site's own way: its loader, views, frozen features, model and
private step, over several rounds and steps. What is public is the same for both (configuration, seed, parameters at
each step), and so is who of the others is drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.mechanism import patient_batches, private_step
from client.model import as_read, device, open_model
from client.simulated import simulated_manifest
from client.site import Site
from client.training import public_seed
from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.data.loader import SiteData, open_site_data
from mmmed.data.manifest import Manifest
from mmmed.data.split import held_out
from mmmed.training import make_optimizer, train

ROUNDS, STEPS, PATIENTS = 2, 2, 9
SMALL = {"image_size": 16}
RARELY = 1e-7  # noise multiplier: the sums are read as the step releases them, and noise must not hide them
TOLERANCE = 1e-3  # of C; sums of float32

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "views": {"training": {"augment": True, "views": 2}},
    "one record": {"training": {"augment": True, "records_per_patient": 1, "modality_dropout": 0.5}},
    "frozen": {
        "model": {"fusion": {"kind": "linear"}, "trainable": "fusion-head"},
        "training": {"optimizer": "sgd", "learning_rate": 1.0, "augment": True, "views": 3},
    },
    "adapters": {"model": {"trainable": "lora"}},
    "norms": {"model": {"trainable": "norm-bias"}, "training": {"records_per_patient": 1}},
    "groups": {"privacy": {"clipping": "per-group"}, "training": {"augment": True}},
    "automatic": {"privacy": {"clipping": "automatic", "engine": "hooks"}, "training": {"augment": True}},
    "dropout": {"model": {"fusion": {"dropout": 0.3}, "text_dropout": 0.3}, "training": {"augment": True}},
    "adversarial": {"training": {"adversarial": 0.05, "adversarial_steps": 2}},
}


def opened(manifest: Manifest, config: RunConfig, home: Path) -> SiteData:
    return open_site_data(manifest, config, home / "images")


def released_sums(
    site: Site, config: RunConfig, manifest: Manifest, drawn: Callable[[int, int], set[str]], home: Path
) -> list[torch.Tensor]:
    """What each step of each round sums over the `drawn` patients, in units of C, float64 vectors."""
    model, data = open_model(config), as_read(opened(manifest, config, home), config)
    model.to(device())
    model.register_forward_pre_hook(_own_masks)
    path = torch.Generator().manual_seed(1)
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def go_on() -> None:
        """The parameters take one way, whatever was released: neighbours are compared from the same point."""
        moved = {name: 0.01 * torch.randn(value.shape, generator=path) for name, value in start.items()}
        model.load_state_dict({name: (value + moved[name]).to(value.dtype) for name, value in start.items()})

    sums: list[torch.Tensor] = []
    scale = config.training.batch_size / config.privacy.max_grad_norm
    for number in range(1, ROUNDS + 1):
        step = private_step(model, make_optimizer(model, config.training), config, RARELY)
        step.optimizer.attach_step_hook(
            lambda o: sums.append(torch.cat([p.grad.flatten().double() * scale for p in o.params]))
        )
        codes = {name: code for code, name in enumerate(data.train.names)}
        draws = [
            np.array(sorted(codes[p] for p in drawn(number, n) if p in codes), dtype=np.int64)
            for n in range(STEPS)
        ]
        batches = patient_batches(data.train, config, public_seed(config, site, number, "augmentation"))
        train(model, config, step, draws, batches, after_step=go_on)
    return sums


def _own_masks(_model: torch.nn.Module, args: tuple[Batch]) -> None:
    """Dropout's masks are secret and independent: give each patient the same in both data sets.

    It needs each patient to be a part of its own.
    """
    (batch,) = args
    content = b"".join(
        one.values.numpy().tobytes() for one in batch.inputs.values() if one.values.dtype == torch.int64
    )
    torch.manual_seed(zlib.crc32(content + batch.label.numpy().tobytes()))


def by_lot(rate: float, patients: Collection[str]) -> Callable[[int, int], set[str]]:
    """Each patient at the rate in each step, whoever else there is."""
    return lambda number, step: {
        patient for patient in patients if zlib.crc32(f"{number} {step} {patient}".encode()) < rate * 2**32
    }


def distances(sums: list[torch.Tensor], others: list[torch.Tensor]) -> list[float]:
    """Of the sums of each step, in units of C."""
    assert len(sums) == len(others) == ROUNDS * STEPS
    return [float((a - b).norm()) for a, b in zip(sums, others, strict=True)]


def only(manifest: Manifest, patients: Collection[str]) -> Manifest:
    records = manifest.records
    return replace(manifest, records=records[records["patient"].isin(patients)].reset_index(drop=True))


def some(site: Site, config: RunConfig) -> Manifest:
    """A few of the site's training patients, the one with most records among them."""
    manifest = simulated_manifest(config).of_site(site.name)
    counts = training_patients(manifest, config)
    return only(manifest, [*list(counts)[:PATIENTS], max(counts, key=counts.__getitem__)])


def training_patients(manifest: Manifest, config: RunConfig) -> dict[str, int]:
    """How many records each has, in the order of names."""
    mask = ~held_out(manifest, config.data, config.training.seed)
    counts: dict[str, int] = manifest.records[mask].groupby("patient").size().to_dict()
    return counts


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMMED_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("name", "rate"), [*((name, 0.4) for name in CONFIGS), ("default", 1.0), ("groups", 1.0)]
)
def test_a_patient_moves_each_sum_of_a_round_by_its_own_part_alone(
    name: str,
    rate: float,
    configured: Callable[..., RunConfig],
    site: Site,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(**CONFIGS[name], data=SMALL)
    if config.model.text_dropout:  # its masks can be held equal only where each patient is a part of its own
        monkeypatch.setattr("mmmed.training.loop.part_size", lambda _: 1)
    manifest = some(site, config)
    counts = training_patients(manifest, config)
    patients = sorted(counts)
    most = max(patients, key=lambda p: counts[p])
    assert counts[most] > config.training.records_per_patient
    drawn = by_lot(rate, patients)
    sums = released_sums(site, config, manifest, drawn, home)
    for newcomer in {
        patients[0],
        patients[-1],
        most,
    }:  # before all others, after them, and with more to choose from
        moved = distances(
            sums, released_sums(site, config, only(manifest, {*patients} - {newcomer}), drawn, home)
        )
        assert max(moved) <= 1 + TOLERANCE, (newcomer, moved)
        there = [newcomer in drawn(number, step) for number in (1, 2) for step in range(STEPS)]
        assert [far > 0.01 for far in moved] == there, (newcomer, moved)


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whoever_is_added_moves_nobody_else(
    data: st.DataObject, configured: Callable[..., RunConfig], site: Site, tmp_path: Path
) -> None:
    """Any name, any number of the site's records as the newcomer's, anywhere in the table."""
    views = data.draw(st.integers(1, 2), label="views")
    config = configured(training={"augment": True, "views": views}, data=SMALL)
    manifest = some(site, config)
    names = [name for name in "!A0123456789abcdefz~" if not _is_held_out(name, config)]
    newcomer = data.draw(st.sampled_from(names), label="name")
    rows = list(manifest.records.to_dict("records"))
    for number in range(data.draw(st.integers(1, 7), label="records")):
        shown = data.draw(st.sampled_from(rows), label="shows")
        place = data.draw(st.integers(0, len(rows)), label="place")
        rows.insert(place, {**shown, "patient": newcomer, "study": f"new-{number}"})
    joined = replace(manifest, records=pd.DataFrame(rows))
    rate = data.draw(st.sampled_from([0.3, 1.0]), label="rate")
    patients = {*training_patients(joined, config)}
    drawn = by_lot(rate, patients)
    sums, others = (
        released_sums(site, config, only(joined, who), drawn, tmp_path)
        for who in (patients, patients - {newcomer})
    )
    assert max(distances(sums, others)) <= 1 + TOLERANCE


def _is_held_out(patient: str, config: RunConfig) -> bool:
    records = pd.DataFrame({"patient": [patient, *map(str, range(100))]})
    return bool(held_out(Manifest(Path(), records), config.data, config.training.seed)[0])
