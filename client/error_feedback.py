"""What a site sends of a round: the change of the trainable parameters, encoded for the wire.

What int8 rounds away is added to the next update (error feedback, Karimireddy et al. 2019, arXiv 1901.09847).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mmmed.federation.round_store import RoundStore
from mmmed.wire import Encoding, pack, unpack


def pack_update(
    trained: Mapping[str, torch.Tensor],
    incoming: Mapping[str, torch.Tensor],
    encoding: Encoding,
    *,
    residual: Path,
    server_round: int,
) -> tuple[bytes, dict[str, torch.Tensor]]:
    """The update as `mmmed.wire` bytes and as these are read; with int8, what was rounded away before is added first.

    Args:
        trained: the released parameters, after training.
        incoming: the parameters as they came, before it.
        encoding: how to round. The rounding reads nothing but released parameters.
        residual: folder where the site keeps what the rounding left over in this run.
        server_round: the round; asking for the same round again gives the same bytes.

    Raises:
        WireError: a value is not finite: training diverged.
    """
    update = {name: value.detach().float().cpu() - incoming[name].float() for name, value in trained.items()}
    if encoding != "int8":
        payload = pack(update, encoding)
        if encoding == "float32":  # read as it was
            return payload, {name: update[name] for name in sorted(update)}
        return payload, unpack(payload)
    rest = RoundStore(residual)
    before = rest.before(server_round, update)
    wanted = {name: value + before[name] for name, value in update.items()}
    payload = pack(wanted, encoding)
    sent = unpack(payload)
    rest.write(server_round, {name: wanted[name] - sent[name] for name in wanted})
    return payload, sent
