"""Matrix products and convolutions in what their types say: TF32 and its kin keep 10 bits of float32's 23.

A norm and a sum that are each rounded to 10 bits differ by more than the clipping norm allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_REDUCED = (
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 in full, in products and in sums of lower types, on every backend. Restores all flags at the end."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [(part, part.fp32_precision) for part in _parts()]
    reduced = {name: getattr(matmul, name) for name in _REDUCED}
    product = _told(torch.get_float32_matmul_precision)
    convolution = _told(lambda: cudnn.allow_tf32)
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        for part, _ in before:
            part.fp32_precision = "ieee"
        for name in _REDUCED:
            setattr(matmul, name, False)
        yield
    finally:
        for name, value in reduced.items():
            setattr(matmul, name, value)
        if product is not None:
            torch.set_float32_matmul_precision(product)
        if convolution is not None:
            cudnn.allow_tf32 = convolution
        for part, precision in before:
            part.fp32_precision = precision


def _parts() -> list[Any]:
    """What has a precision of its own in torch's newer settings."""
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]  # type: ignore[attr-defined]


def _told(ask: Callable[[], Any]) -> Any:
    """An older setting; None where a program has set the newer ones, since torch then refuses to tell."""
    try:
        return ask()
    except RuntimeError:
        return None
