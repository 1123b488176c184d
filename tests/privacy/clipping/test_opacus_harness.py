"""Opacus' own tests of its per-sample gradients, as its wheel ships them, run on the book-keeping engine.

The harness compares per-sample gradients with its own micro-batches of one record. Ours are made by asking the engine
for a clipped sum in which one record has the factor 1 and all others 0, and its norms are compared as well. What is
left out: empty batches (a private step does not compute them), packed sequences and bags of embeddings (no rule), and
sequence-first tensors but for recurrent layers (refused, see test_refusals.py).
"""

from __future__ import annotations

import copy
import importlib
import unittest
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings
from opacus.utils import per_sample_gradients_utils as harness
from torch import nn

from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.units import Units

# module, test case, test, and the layers that it builds
TESTS = [
    ("linear_test", "Linear_test", "test_input_bias"),
    ("conv1d_test", "Conv1d_test", "test_conv1d"),
    ("conv2d_test", "Conv2d_test", "test_conv2d"),
    ("conv3d_test", "Conv3d_test", "test_conv3d"),
    ("embedding_test", "Embedding_test", "test_input_across_dims"),
    ("layer_norm_test", "LayerNorm_test", "test_input_norm"),
    ("rms_norm_test", "RMSNorm_test", "test_input_norm"),
    ("group_norm_test", "GroupNorm_test", None),
    ("instance_norm1d_test", "InstanceNorm1d_test", None),
    ("instance_norm2d_test", "InstanceNorm2d_test", None),
    ("instance_norm3d_test", "InstanceNorm3d_test", None),
    ("dp_rnn_test", "RNN_test", "test_rnn"),
]


@pytest.fixture(scope="module", autouse=True)
def few_examples() -> Iterator[None]:
    """Opacus' tests take the examples' number from the profile in force when they are imported."""
    before = settings.get_current_profile_name()
    settings.register_profile("opacus", max_examples=50, derandomize=True, deadline=None)
    settings.load_profile("opacus")
    yield
    settings.load_profile(before)


def per_sample_gradients(
    x: torch.Tensor, module: nn.Module, batch_first: bool = True, loss_reduction: str = "mean", **_: Any
) -> dict[str, torch.Tensor]:
    """In place of `compute_opacus_grad_sample`: [B, *shape] by parameter, from the engine."""
    model, records = copy.deepcopy(module), x.shape[0 if batch_first else 1]

    def losses() -> torch.Tensor:
        out = model(x).abs()
        rows = (out if batch_first else out.transpose(0, 1)).flatten(1)
        return rows.mean(1) if loss_reduction == "mean" else rows.sum(1)

    engine, units = BookkeepingEngine(model), Units.of(torch.arange(records))
    alone = torch.eye(records, dtype=x.dtype if x.is_floating_point() else torch.float32)
    found = [engine.clipped(losses, units, lambda _norms, row=row: row) for row in alone]  # type: ignore[misc]
    gradients = {name: torch.stack([one.sums[name] for one in found]) for name in found[0].sums}
    squares = torch.stack([rows.flatten(1).square().sum(1) for rows in gradients.values()]).sum(0)
    torch.testing.assert_close(found[0].norms, squares.sqrt().double(), rtol=1e-4, atol=1e-5)
    return gradients


@pytest.mark.parametrize(("module", "case", "test"), TESTS, ids=[case for _, case, _ in TESTS])
def test_opacus_own_tests_of_per_sample_gradients(module: str, case: str, test: str | None) -> None:
    common = importlib.import_module("opacus.tests.grad_samples.common")
    shipped = getattr(importlib.import_module(f"opacus.tests.grad_samples.{module}"), case)
    compared = 0

    class OnTheEngine(shipped):  # type: ignore[misc, valid-type]
        def run_test(self, x: Any, layer: nn.Module, batch_first: bool = True, **options: Any) -> None:
            nonlocal compared
            recurrent = module == "dp_rnn_test"
            if not isinstance(x, torch.Tensor) or not x.numel() or not (batch_first or recurrent):
                return
            tolerances = {name: options[name] for name in ("atol", "rtol") if name in options}
            for reduction in ("sum", "mean"):
                self.run_test_with_reduction(
                    x, layer, batch_first=batch_first, loss_reduction=reduction, **tolerances
                )
            compared += 1

    names = [test] if test else unittest.TestLoader().getTestCaseNames(OnTheEngine)
    result = unittest.TestResult()
    with (
        patch.object(harness, "compute_opacus_grad_sample", per_sample_gradients),
        patch.object(common, "compute_opacus_grad_sample", per_sample_gradients),
    ):
        for name in names:
            OnTheEngine(name).run(result)
    assert not result.failures + result.errors, (result.failures + result.errors)[0][1]
    assert compared >= 3


@pytest.mark.parametrize("wrong", [False, True])
def test_the_harness_judges_a_whole_model_and_notices_a_wrong_gradient(wrong: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(5, 3, 5)

    def ours(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        found = per_sample_gradients(*args, **kwargs)
        return {name: rows.roll(1, 0) if wrong else rows for name, rows in found.items()}

    with patch.object(harness, "compute_opacus_grad_sample", ours):
        assert harness.check_per_sample_gradients_are_correct(x, model) is not wrong
