"""`nn.MultiheadAttention`: one packed weight for queries, keys and values; and trained biases of attention scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from privacy.clipping.book import Book
from privacy.clipping.linear import Product, tracked_linear
from privacy.clipping.operators import autocast, rule, untracked
from privacy.clipping.parameter import beside
from privacy.clipping.units import Units
from privacy.clipping.use import Cost, Direct, Use, owned, wide


@dataclass(frozen=True)
class Stacked(Use):
    """Three products whose gradients are row blocks of one weight: their squared norms add."""

    lefts: tuple[torch.Tensor, ...]
    rights: tuple[torch.Tensor, ...]

    def _products(self) -> list[Product]:
        return [Product(left, right) for left, right in zip(self.lefts, self.rights, strict=True)]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {str(i): tensor for i, tensor in enumerate((*self.lefts, *self.rights))}

    def map(self, change: Any) -> Stacked:
        return Stacked(tuple(map(change, self.lefts)), tuple(map(change, self.rights)))

    def per_unit(self, units: Units) -> torch.Tensor:
        return torch.cat([product.per_unit(units) for product in self._products()], 1)

    def weighted(self, factors: torch.Tensor) -> torch.Tensor:
        return torch.cat([product.weighted(factors) for product in self._products()])

    def cost(self, units: Units) -> Cost:
        costs = [product.cost(units) for product in self._products()]
        return Cost(sum(c.gradient for c in costs), sum(c.keep for c in costs), sum(c.ghost for c in costs))

    def ghost(self, units: Units) -> torch.Tensor:
        return torch.stack([product.ghost(units) for product in self._products()]).sum(0)

    def reach(self, units: Units) -> torch.Tensor:
        return torch.stack([product.reach(units) for product in self._products()]).sum(0)


class _Packed(torch.autograd.Function):
    """Query, key and value [R, T, E] times the row blocks of one weight [3 E, E]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        book: Book,
    ) -> tuple[torch.Tensor, ...]:
        ctx.weight, ctx.bias, ctx.book = weight, bias, book
        ctx.save_for_backward(query, key, value)
        weights = weight.to(query.dtype).chunk(3)
        biases = [None] * 3 if bias is None else bias.to(query.dtype).chunk(3)
        return tuple(
            owned(F.linear(x, w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )

    @staticmethod
    @untracked
    def backward(
        ctx: Any, saved: tuple[torch.Tensor, ...], *gradients: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        book, weight, bias = ctx.book, ctx.weight, ctx.bias
        if book.wants(bias):
            sums = [wide(book.rows(g, bias, 1)).sum(1) for g in gradients]
            book.add(bias, Direct(torch.cat(sums, 1)))
        if book.wants(weight):
            lefts = tuple(book.rows(g, weight, 1) for g in gradients)
            rights = tuple(book.rows(x, weight, 1) for x in saved)
            book.add(weight, Stacked(lefts, rights))
        weights = weight.to(gradients[0].dtype).chunk(3)
        to_inputs = [
            g @ w if needed else None
            for g, w, needed in zip(gradients, weights, ctx.needs_input_grad[:3], strict=True)
        ]
        return (*to_inputs, None, None, None)


@rule(F.multi_head_attention_forward)
def _multi_head_attention(
    book: Book,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    bias_k: torch.Tensor | None,
    bias_v: torch.Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    training: bool = True,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: torch.Tensor | None = None,
    k_proj_weight: torch.Tensor | None = None,
    v_proj_weight: torch.Tensor | None = None,
    static_k: torch.Tensor | None = None,
    static_v: torch.Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """As torch's own, step by step, with tracked projections. query [L, R, E], key and value [S, R, E]."""
    unsupported = (bias_k, bias_v, static_k, static_v)
    if query.dim() != 3 or add_zero_attn or any(value is not None for value in unsupported):
        return NotImplemented
    weights_given = (in_proj_weight, q_proj_weight, k_proj_weight, v_proj_weight, out_proj_weight)
    if not book.shared.owns(*weights_given, in_proj_bias, out_proj_bias):
        return NotImplemented
    length, records = query.shape[:2]
    inputs = [autocast(x.transpose(0, 1)) for x in (query, key, value)]
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        biases = [None] * 3 if in_proj_bias is None else _thirds(book, in_proj_bias)
        if biases is None or any(w is None for w in weights):
            return NotImplemented
        projected = [tracked_linear(book, x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]  # type: ignore[arg-type]
    elif query is key is value:
        projected = list(tracked_linear(book, inputs[0], in_proj_weight, in_proj_bias).chunk(3, dim=-1))  # type: ignore[arg-type]
    else:
        projected = list(_Packed.apply(*inputs, in_proj_weight, in_proj_bias, book))
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in projected)  # [R, h, T, E / h]
    mask = _joint_mask(key_padding_mask, attn_mask, records, num_heads, q.dtype)
    weights_out = None
    if need_weights:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        attention = (scores if mask is None else scores + mask).softmax(-1)
        attention = F.dropout(attention, dropout_p, training)
        weights_out = attention.mean(1) if average_attn_weights else attention
        mixed = attention @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout_p if training else 0.0)
    mixed = mixed.transpose(1, 2).reshape(records, length, -1)
    out = tracked_linear(book, mixed, out_proj_weight, out_proj_bias)
    return out.transpose(0, 1), weights_out


@rule(F.scaled_dot_product_attention)
def _dot_product_attention(
    book: Book,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A bias by position, [h, T, S] or [1, h, T, S], that is trained."""
    if attn_mask is None or not book.wants(attn_mask) or any(map(book.wants, (query, key, value))):
        return NotImplemented
    mask = beside(book, attn_mask, query)
    if mask is None:
        return NotImplemented
    return F.scaled_dot_product_attention(query, key, value, mask, *args, **kwargs)


def _thirds(book: Book, bias: torch.Tensor) -> Any:
    return None if book.wants(bias) else bias.chunk(3)


def _joint_mask(
    padding: torch.Tensor | None, attention: torch.Tensor | None, records: int, heads: int, dtype: torch.dtype
) -> torch.Tensor | None:
    """Both masks as one to add to the scores [R, h, L, S]. In boolean masks, True is hidden."""

    def additive(mask: torch.Tensor) -> torch.Tensor:
        if mask.dtype != torch.bool:
            return mask.to(dtype)
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))

    total = None
    if attention is not None:
        total = additive(attention)
        total = total.view(records, heads, *total.shape[1:]) if total.dim() == 3 else total
    if padding is not None:
        hidden = additive(padding)[:, None, None, :]
        total = hidden if total is None else total + hidden
    return total
