"""The audit of a site's own model, step, sampler and batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import client.audit
from client.audit import run_subject
from client.mechanism import patient_batches
from mmmed.config import RunConfig, from_flat
from mmmed.data.loader import PatientBatches, Records
from privacy.accounting import DpSgdEvent
from privacy.audit import audit
from privacy.audit.neighbours import neighbour_check
from privacy.audit.refusals import refusal_check
from privacy.audit.result import Check
from privacy.audit.run import parts
from privacy.audit.static import static_checks
from privacy.discrete import DiscreteGaussian, discrete_std, gaussian_std
from privacy.dpsgd import PrivateStep
from privacy.secure_sum import Lattice

SMALL = {
    "data.image_size": 16, "data.text_tokens": 8, "model.image_width": 8, "model.fusion.width": 8,
    "model.fusion.heads": 2, "training.batch_size": 8, "training.learning_rate": 0.01,
}  # fmt: skip
EVENT = DpSgdEvent(1.0, 0.1, 40)


def config(**more: Any) -> RunConfig:
    return from_flat(SMALL | {key.replace("__", "."): value for key, value in more.items()})


def test_a_site_passes_and_its_settings_are_the_ones_audited() -> None:
    chosen = config(
        data__image="",
        privacy__max_grad_norm=0.3,
        privacy__clipping="automatic",
        training__records_per_patient=3,
    )
    with run_subject(chosen, EVENT) as subject:
        assert (subject.max_grad_norm, subject.expected_units, subject.records_per_unit) == (0.3, 8, 3)
        assert (
            subject.claim == EVENT and torch.bincount(subject.units).max() == 4
        )  # one more than a batch takes
        result = audit(subject, quick=True)
    assert result.passed, result.to_text()
    assert {bound.code for bound in result.bounds} == {"E1", "E2", "E3", "E4"}


@pytest.mark.parametrize(
    "more",
    [{"data__image": ""}, {"data__text": ""}, {"data__image_channels": 3, "training__augment": True},
     {"training__precision": "bfloat16"}, {"model__trainable": "fusion-head"},
     {"task__classes": '["a", "b", "c"]', "training__optimizer": "sgd"},
     {"data__image": "", "data__text": "", "data__volume": "v", "data__volume_size": 16,
      "data__numbers": '{"age": [0, 90]}'},
     {"data__numbers": '{"age": [0, 90]}', "data__categories": '{"sex": ["F", "M"]}'}],
)  # fmt: skip
def test_every_kind_of_run_can_be_audited(more: dict[str, Any]) -> None:
    with run_subject(config(**more), EVENT) as subject:
        assert all(check.passed for check in static_checks(subject))
        assert neighbour_check(subject).passed
        model = subject.make_model()
        rows, units = subject.draw(np.array([3, 1]))
        assert subject.losses(model, rows).shape == units.shape


def test_a_fault_in_the_sites_own_step_or_batches_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = client.audit.private_step

    def quieter(*arguments: Any, **named: Any) -> PrivateStep:
        step = honest(*arguments, **named)
        step.optimizer.noise_multiplier *= 0.5
        return step

    monkeypatch.setattr(client.audit, "private_step", quieter)
    monkeypatch.setattr(
        client.audit,
        "parts",
        lambda unit, *_, **__: iter([(torch.arange(len(unit)), unit)] * bool(len(unit))),
    )
    assert flagged({"C1", "C2"}, data__image="") >= {"C1", "C2"}


def test_records_chosen_from_a_stream_that_all_patients_share_are_flagged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shared(records: Records, config: RunConfig, seed: int) -> PatientBatches:
        batches, stream = patient_batches(records, config, seed), np.random.default_rng(seed)

        def choose(step: int, own: np.ndarray) -> np.ndarray:
            return stream.choice(own, min(len(own), config.training.records_per_patient), replace=False)

        monkeypatch.setattr(batches, "_choose", choose)
        return batches

    monkeypatch.setattr(client.audit, "patient_batches", shared)
    with run_subject(config(training__records_per_patient=1), EVENT) as subject:
        assert not neighbour_check(subject).passed


def test_a_site_that_refuses_a_loss_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = client.audit.batch_losses

    def careful(*arguments: Any) -> torch.Tensor:
        losses = honest(*arguments)
        if bool((losses > 50).any()):
            raise ValueError("a loss out of the usual")
        return losses

    monkeypatch.setattr(client.audit, "batch_losses", careful)
    with run_subject(config(), EVENT) as subject:
        assert not refusal_check(subject).passed


MASKED = {
    "federation__release": "secure-steps", "federation__honest": 3, "federation__min_sites": 4,
    "training__optimizer": "sgd", "data__image": "",
}  # fmt: skip
NOISE = {"C1", "C2", "C6", "C8"}


def flagged(codes: set[str], **more: Any) -> set[str]:
    with run_subject(config(**more), EVENT) as subject:
        found = [one for part in parts(subject, quick=True) if part.codes & codes for one in part()]
    return {one.code for one in found if isinstance(one, Check) and not one.passed}


def test_a_sum_of_shares_passes_as_one_noise() -> None:
    assert flagged(NOISE | {"C7", "C10", "S8", "S9"}, **MASKED) == set()


def _forgotten(self: Lattice, vector: np.ndarray) -> np.ndarray:
    return self.encode(vector)


def _of_one_site_more(self: Lattice, vector: np.ndarray) -> np.ndarray:
    noise = DiscreteGaussian(discrete_std(gaussian_std(self.noise.std, self.honest), self.honest + 1))
    return self.encode(vector) + noise.draw(self.dimension)


def _seeded(self: Lattice, vector: np.ndarray) -> np.ndarray:
    lots = np.random.default_rng(0).normal(0, self.noise.std, self.dimension)
    return self.encode(vector) + np.rint(lots).astype(np.int64)


def _drawn_once(self: Lattice, vector: np.ndarray) -> np.ndarray:
    kept: dict[int, np.ndarray] = self.__dict__.setdefault("kept", {})
    return self.encode(vector) + kept.setdefault(0, self.noise.draw(self.dimension))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [(_forgotten, "C1"), (_of_one_site_more, "C1"), (_seeded, "C6"), (_drawn_once, "C6")],
)
def test_a_fault_in_a_sites_share_is_flagged(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[Lattice, np.ndarray], np.ndarray], expected: str
) -> None:
    monkeypatch.setattr(Lattice, "noised", fault)
    assert expected in flagged(NOISE, **MASKED)
