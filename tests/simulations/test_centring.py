"""``model.fusion.centring_steps``: the first steps of a run learn the mean of the frozen encoders' features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import load_file
from torch.nn.functional import normalize

from client.model import as_read, open_model
from client.simulated import open_simulated, simulated_manifest
from client.trial import try_run
from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.errors import ModelError
from mmmed.models import build_model
from mmmed.models.fusion.linear import Centre, LinearFusion
from mmmed.tasks import Classification
from mmmed.training import batch_losses
from privacy.dpsgd import PrivateStep
from simulations.simulate import start_run
from tests.contracts.steps import check_independence, exact
from tests.mmmed.models.test_models import a_batch, changed, configured
from tests.oracles.clipping import clipped_sum
from tests.simulations.test_steps import config, trained

ALWAYS = {"release": "steps", "rounds": 3, "sampling_rate": 1.0}
LINEAR = {"trainable": "fusion-head", "image_width": 8, "fusion": {"kind": "linear", "centring_steps": 2}}


def centred(hospitals: Path, *, private: bool = False, **federation: Any) -> RunConfig:
    values = config(hospitals, private=private).model_dump() | {"model": LINEAR}
    values["federation"] |= ALWAYS | federation
    return RunConfig.model_validate(values)


def everyone(run: RunConfig, state: Path) -> list[Batch]:
    """The training records of each site, whole."""
    manifest = simulated_manifest(run)
    sites = [open_simulated(manifest.of_site(name), run, state / name) for name in manifest.sites]
    records = [as_read(site.data, run).train for site in sites]
    return [one.batch(np.arange(len(one)), one.patient) for one in records]


def weights(batch: Batch) -> torch.Tensor:
    """(R,), one over the records of the record's patient."""
    return 1 / torch.bincount(batch.unit)[batch.unit]


def test_without_privacy_the_mean_is_the_pooled_one_and_the_head_learns_about_it(
    hospitals: Path, tmp_path: Path
) -> None:
    run = centred(hospitals)
    found = trained(start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0))
    model, sites = open_model(run), everyone(run, tmp_path / "state")
    assert isinstance(model, LinearFusion)
    with torch.no_grad():
        for name in model.modalities:
            total, count = 0.0, 0.0
            for batch in sites:
                given = batch.inputs[name]
                there = given.present.any(1).float() * weights(batch)
                total = total + (normalize(model.encoder(name)(given)[:, 0], dim=1) * there[:, None]).sum(0)
                count = count + there.sum()
            kept = (found[f"centre.{name}.total.weight"][0], found[f"centre.{name}.total.bias"])
            np.testing.assert_allclose(kept[0] / (4 * kept[1]), total / count, rtol=0, atol=1e-5)
    state = {name: torch.from_numpy(value) for name, value in found.items() if name.startswith("centre.")}
    model.load_state_dict(state, strict=False)
    for batch in sites:  # the one step that is left
        (batch_losses(model, run.task.target(), batch, "float32") * weights(batch)).sum().backward()
    assert model.head.weight.grad is not None
    step = run.training.learning_rate / (run.training.batch_size * len(sites))
    np.testing.assert_allclose(found["head.weight"], -step * model.head.weight.grad, rtol=0, atol=1e-6)
    assert np.abs(found["head.weight"]).max() > 1e-4


def test_a_step_moves_what_it_learns_and_no_noise_gets_into_the_rest(hospitals: Path, tmp_path: Path) -> None:
    masked = {"release": "secure-steps", "min_sites": 3, "honest": 2}
    run = centred(hospitals, private=True, sampling_rate=0.5, **masked)
    folder = start_run(run, folder=tmp_path / "run", engine="inprocess", workers=0)
    second, third = (load_file(path) for path in sorted((folder / "checkpoints").glob("round-*.safetensors")))
    mean = {key for key in second if key.startswith("model/centre.")}
    head = {key for key in second if key.startswith("model/head.")}
    assert len(mean) == 4 and len(head) == 2
    assert all((second[key] == 0).all() and (third[key] != 0).all() for key in head)
    assert all((second[key] != 0).all() and (second[key] == third[key]).all() for key in mean)


def test_it_is_tried_on_made_up_records_before_any_charge(
    hospitals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError("no mean here")

    monkeypatch.setattr(LinearFusion, "_centring_losses", fails)
    with pytest.raises(ModelError, match="no mean here"):
        try_run(centred(hospitals, private=True, ema=0.5))


def a_model(rows: int = 3) -> tuple[LinearFusion, Batch]:
    run = configured(model=LINEAR, training={"optimizer": "sgd"}, federation=ALWAYS)
    model = build_model(run)
    assert isinstance(model, LinearFusion)
    return model, a_batch(rows)


def test_a_private_centring_step_is_the_definitions() -> None:
    model, batch = exact(*a_model())
    batch = changed(batch, "text", present=torch.zeros_like(batch.inputs["text"].present[:1]).expand(3, -1))
    batch.unit[:] = torch.tensor([0, 1, 0])

    def one_record(reference: torch.nn.Module, record: int) -> torch.Tensor:
        row = batch[record : record + 1]
        return reference(row, centring=True).sum()

    expected = clipped_sum(model, one_record, batch.unit, 1.0)
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        noise_multiplier=1e-9,
        max_grad_norm=1.0,
        expected_units=1,
    )
    step(lambda: batch_losses(model, Classification().target(), batch, "float32", centring=True), batch.unit)
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(-value.detach(), expected.sums[name], rtol=1e-6, atol=1e-6)
    untouched = [*model.centre["text"].parameters(), *model.head.parameters()]
    assert all(float(one.detach().abs().max()) < 1e-7 for one in untouched)


def test_features_about_their_mean_have_unit_scale() -> None:
    features = normalize(torch.randn(500, 6) + torch.tensor([3.0, 0, 0, 0, 0, 0]), dim=1)
    centre = Centre(6)
    torch.testing.assert_close(centre(features), features)  # before anything was learnt
    centre.losses(features).sum().backward()
    with torch.no_grad():
        for parameter in centre.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
        after = centre(features)
    torch.testing.assert_close(after.mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    assert float(after.square().sum(1).mean()) == pytest.approx(1, abs=1e-4)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(NUMBERS, min_size=4, max_size=4), NUMBERS)
def test_whatever_a_server_sends_as_the_mean_features_stay_bounded(total: list[float], count: float) -> None:
    centre, features = Centre(4), normalize(torch.eye(4) + 0.1, dim=1)
    with torch.no_grad():
        centre.total.weight.copy_(torch.tensor([total]))
        centre.total.bias.fill_(count)
        found = centre(features)
    assert torch.isfinite(found).all() and float(found.norm(dim=1).max()) < 1.96 / (1 - 0.95**2) ** 0.5


def test_records_stay_independent_about_a_mean() -> None:
    model, batch = a_model()
    with torch.no_grad():
        torch.nn.init.normal_(model.head.weight)
        for centre in model.centre.values():
            for parameter in centre.parameters():
                parameter.uniform_(0.1, 1)
    check_independence(*exact(model, batch))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": LINEAR | {"trainable": "full"}}, "trainable"),
        ({"federation": {"rounds": 3}}, 'release = "steps"'),
        ({"federation": ALWAYS | {"rounds": 2}}, "rounds above it. Found 2"),
        ({"federation": ALWAYS | {"strategy": {"kind": "fedadam"}}}, '"fedavg"'),
        ({"data": {"image": "", "text": "", "numbers": {"age": [0, 90]}}}, "encoder that is not trained"),
    ],
)
def test_what_it_needs_is_told(changes: dict[str, Any], told: str) -> None:
    whole = {"model": LINEAR, "training": {"optimizer": "sgd"}, "federation": ALWAYS} | changes
    with pytest.raises(ValidationError, match=f"centring_steps = 2 needs .*{told}"):
        RunConfig.model_validate(whole)
