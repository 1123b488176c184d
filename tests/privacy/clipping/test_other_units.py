"""What a unit adds is the same whoever else is in the batch, though the way to its norm is chosen by the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privacy.dpsgd import PrivateStep

UNITS, POSITIONS, WIDTH = 16, 12, 24


class Masked(nn.Module):
    """A layer of which only the first position is read, as of padded notes."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(WIDTH, WIDTH, bias=False), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = torch.zeros(POSITIONS, 1)
        read[0] = self.scale
        return (self.linear(x) * read).sum((1, 2))


def clipped_sum(records: torch.Tensor, units: torch.Tensor, scale: float) -> torch.Tensor:
    """In units of C."""
    torch.manual_seed(0)
    model = Masked(scale)
    step = PrivateStep(
        model,
        torch.optim.SGD(model.parameters(), 1.0),
        noise_multiplier=1e-7,
        max_grad_norm=1.0,
        expected_units=1,
        tried=True,
    )
    sums: list[torch.Tensor] = []
    step.optimizer.attach_step_hook(lambda o: sums.append(o.params[0].grad.double()))
    step(lambda: model(records), units)
    return sums[0]


@pytest.mark.parametrize("more", [1, 4, 24])
@pytest.mark.parametrize(
    ("read", "unread", "scale"), [(1.0, 1.0, 1.0), (1.0, 1e7, 1.0), (1e12, 1.0, 1e12), (1.0, 1.0, 1e22)]
)
def test_a_unit_of_many_records_moves_the_sum_by_its_own_part_alone(
    read: float, unread: float, scale: float, more: int
) -> None:
    """Many records make Gram matrices dear, for all units: another way is taken than without them."""
    records = 1 + 0.1 * torch.randn(UNITS + more, POSITIONS, WIDTH, generator=torch.manual_seed(1))
    records[:, :1] *= read
    records[:, 1:] *= unread
    units = torch.cat([torch.arange(UNITS), torch.full((more,), UNITS)])
    apart = clipped_sum(records, units, scale) - clipped_sum(records[:UNITS], units[:UNITS], scale)
    assert float(apart.norm()) <= 1 + 1e-3
