"""A private step computes in the precision that its types name, whatever a program has set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from privacy.clipping.precision import full_precision
from privacy.dpsgd import PrivateStep

matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn


def flags() -> list[object]:
    return [
        matmul.allow_tf32,
        cudnn.allow_tf32,
        torch.get_float32_matmul_precision(),
        matmul.fp32_precision,
        cudnn.conv.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_fp16_accumulation,
    ]


EXACT = [False, False, "highest", "ieee", "ieee", "ieee", False, False, False]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """What a test sets is taken back."""
    with full_precision():
        pass
    precision, allowed = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32 = allowed


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
@pytest.mark.parametrize("engine", ["bookkeeping", "hooks", "ghost"])
def test_flags_hold_within_the_step_and_are_restored(engine: str, setting: str) -> None:
    torch.set_float32_matmul_precision(setting)
    cudnn.allow_tf32 = setting != "highest"
    before, forward, backward = flags(), [], []
    model, x = nn.Linear(4, 2), torch.randn(3, 4)

    def losses(rows: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        forward.append(flags())
        out = model(x[rows])
        if out.requires_grad:
            out.register_hook(lambda _: backward.append(flags()))
        return out.square().sum(1)

    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_units=3.0,
        engine=engine,  # type: ignore[arg-type]
    )
    step.try_on(losses, torch.arange(3))
    step(losses, torch.arange(3))
    assert flags() == before
    with pytest.raises(ZeroDivisionError):
        step(lambda: losses() / (1 // 0), torch.arange(3))
    assert flags() == before
    assert all(seen == EXACT for seen in forward + backward)
    assert len(backward) > 1
