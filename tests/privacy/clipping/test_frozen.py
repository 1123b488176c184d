"""What is frozen costs nothing: counted in uses that are booked and in multiply-adds, not in seconds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel

from privacy.clipping.book import Book
from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.units import Units
from tests.privacy.clipping.agreement import check

R = 4
IDS = torch.tensor([[5, 6, 7, 0, 0], [8, 5, 5, 9, 3], [4, 4, 2, 1, 0], [3, 2, 2, 7, 1]])
PATIENTS = torch.tensor([0, 1, 0, 2])


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=12, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=10, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip


def adapted() -> nn.Module:
    """BERT with peft's own low-rank adapters in the upper half of its layers."""
    peft = pytest.importorskip("peft", reason="peft is in the extra 'pretrained'")
    config = peft.LoraConfig(
        r=2, target_modules=["query", "value"], layers_to_transform=[2, 3], lora_dropout=0.0
    )
    model = peft.get_peft_model(bert(), config)
    with torch.no_grad():  # adapters start at 0, where half of their gradients vanish
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    return model


def upper_half() -> nn.Module:
    model = bert().requires_grad_(False)
    model.encoder.layer[2:].requires_grad_(True)
    return model


def call(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [torch.arange(R), PATIENTS])
@pytest.mark.parametrize("build", [adapted, upper_half])
def test_partly_frozen_transformers(
    build: Callable[[], nn.Module], units: torch.Tensor, kind: torch.dtype
) -> None:
    check(build(), (IDS,), units, dtype=kind, call=call)


@pytest.mark.parametrize("build", [adapted, upper_half])
def test_only_what_is_trained_is_booked_once(build: Callable[[], nn.Module]) -> None:
    model = build()
    names = {id(p): name for name, p in model.named_parameters()}
    booked: list[str] = []
    add = Book.add

    def note(book: Book, parameter: nn.Parameter, use: object) -> None:
        booked.append(names[id(parameter)])
        add(book, parameter, use)  # type: ignore[arg-type]

    with patch.object(Book, "add", note):
        BookkeepingEngine(model).clipped(
            lambda: call(model, IDS).square().sum((1, 2)), Units.of(PATIENTS), torch.ones_like
        )
    assert sorted(booked) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert not [name for name in booked if "layer.0" in name or "layer.1" in name or "embeddings" in name]


def test_the_layers_below_the_lowest_trainable_one_cost_a_forward_pass_alone() -> None:
    def flops(model: nn.Module, private: bool) -> int:
        with FlopCounterMode(display=False) as counter:
            if private:
                BookkeepingEngine(model).clipped(
                    lambda: call(model, IDS).square().sum((1, 2)), Units.of(torch.arange(R)), torch.ones_like
                )
            else:
                with torch.set_grad_enabled(any(p.requires_grad for p in model.parameters())):
                    loss = call(model, IDS).square().sum()
                if loss.requires_grad:
                    loss.backward()
        return int(counter.get_total_flops())

    frozen = copy.deepcopy(bert()).requires_grad_(False)
    forward, full, half = flops(frozen, False), flops(bert(), False), flops(upper_half(), False)
    private_half = flops(upper_half(), True)
    assert forward < half < full
    # Backward work of the upper half only: norms may add to it, but nothing of the lower half's does.
    assert private_half - forward < full - forward
    assert private_half - forward < 1.5 * (half - forward)
