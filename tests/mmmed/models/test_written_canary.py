"""A model may write what it was trained on: a sentence of one patient, planted here. Privacy keeps it from that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.models import MultimodalModel, build_model
from mmmed.models.decoder import spelling
from mmmed.training import PlainStep, batch_losses
from privacy.accounting import calibrate_noise_multiplier
from privacy.dpsgd import PrivateStep
from tests.mmmed.models.test_decoder import WORDS, configured, folder

PATIENTS, STEPS, RATE = 160, 150, 0.25
LETTERS = [*WORDS, *"abcdefghijklmnop"]
CANARY = "h c m a k"  # of the first patient; all others have one of two sentences


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    path = folder(tmp_path_factory.mktemp("letters"), LETTERS, len(LETTERS))
    return configured(path, tokens=6, prefix=2)


@pytest.fixture(scope="module")
def studies(run: RunConfig) -> Batch:
    value = torch.linspace(-1, 1, PATIENTS)[:, None]
    texts = ["small effusion" if one > 0 else "no effusion" for one in value[:, 0]]
    cells = [CANARY, *texts[1:]]
    label = torch.from_numpy(spelling(run.task.decoder_model).encode(cells, 6))  # type: ignore[attr-defined]
    given = Input(
        value, torch.arange(PATIENTS)[:, None] > 0
    )  # the first has no value, and so is easily told apart
    return Batch({"table": given}, label, torch.arange(PATIENTS))


def trained(run: RunConfig, studies: Batch, epsilon: float | None) -> MultimodalModel:
    model, target = build_model(run), run.task.target()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    step: PlainStep | PrivateStep = PlainStep(optimizer)
    if epsilon is not None:
        noise = calibrate_noise_multiplier(epsilon, 1e-3, RATE, STEPS)
        step = PrivateStep(
            model,
            optimizer,
            noise_multiplier=noise,
            max_grad_norm=1.0,
            expected_units=int(RATE * PATIENTS),
            engine="bookkeeping",
        )
    for _ in range(STEPS):
        rows = torch.from_numpy(np.flatnonzero(rng.random(PATIENTS) < RATE))
        part = studies[rows]
        step.accumulate(
            lambda part=part: batch_losses(model, target, part, "float32"), torch.arange(len(rows))
        )  # type: ignore[misc]
        step.finish()
    return model.eval()


@pytest.mark.slow
def test_a_sentence_of_one_patient_is_written_again_without_privacy_and_not_at_epsilon_8(
    run: RunConfig, studies: Batch
) -> None:
    target, losses = run.task.target(), {}
    for epsilon in (None, 8.0):
        model = trained(run, studies, epsilon)
        with torch.no_grad():
            written = target.as_table(target.predictions(model.answer(studies)).numpy())["impression"]
            losses[epsilon] = target.losses(model(studies), studies.label)
        assert (written[0] == CANARY) == (epsilon is None)
        assert CANARY not in written[1:]
        others = written[PATIENTS * 3 // 4 :] == "small effusion"
        assert others.mean() > 0.9  # what many patients say is learnt
    assert losses[8.0][0] > losses[None][0] + 1.5  # nats a token
