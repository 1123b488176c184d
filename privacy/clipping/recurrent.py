"""Torch's recurrent layers and cells: `nn.LSTM`, `nn.GRU`, `nn.RNN`.

Their fused kernels give one gradient for a whole batch. Here the recurrence is unrolled, as the layers' documentation
defines it. What a layer reads from below is one product over all times. What it feeds back to itself is one as well:
its terms at all times are views of one tensor of zeros, whose gradient is the sought one, all times side by side.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from privacy.clipping.book import Book
from privacy.clipping.linear import Product, tracked_linear
from privacy.clipping.operators import autocast, rule, untracked
from privacy.clipping.use import Direct, wide

State = tuple[
    torch.Tensor, ...
]  # what a layer hands to its next time, [R, H] each; the first is what it puts out
Cell = Callable[[torch.Tensor, torch.Tensor, State], State]


def _lstm(read: torch.Tensor, fed: torch.Tensor, state: State) -> State:
    """From W_i x + b_i, W_h h + b_h [R, 4 H] and (h, c) to the next (h, c)."""
    keep_in, forget, new, out = (read + fed).chunk(4, 1)
    inside = forget.sigmoid() * state[1] + keep_in.sigmoid() * new.tanh()
    return out.sigmoid() * inside.tanh(), inside


def _gru(read: torch.Tensor, fed: torch.Tensor, state: State) -> State:
    """From W_i x + b_i, W_h h + b_h [R, 3 H] and (h,) to the next (h,)."""
    (reset, update, new), (fed_reset, fed_update, fed_new) = read.chunk(3, 1), fed.chunk(3, 1)
    update = (update + fed_update).sigmoid()
    new = (new + (reset + fed_reset).sigmoid() * fed_new).tanh()
    return ((1 - update) * new + update * state[0],)


def _rnn(activation: Callable[[torch.Tensor], torch.Tensor]) -> Cell:
    return lambda read, fed, state: (activation(read + fed),)


@dataclass(frozen=True)
class _Weights:
    """Of one layer in one direction, in the order that torch lists them; `project` [P, H] of an LSTM's proj_size."""

    read: torch.Tensor
    feed: torch.Tensor
    read_bias: torch.Tensor | None = None
    feed_bias: torch.Tensor | None = None
    project: torch.Tensor | None = None

    @classmethod
    def listed(cls, tensors: Sequence[torch.Tensor], bias: bool) -> _Weights:
        return cls(*tensors) if bias else cls(tensors[0], tensors[1], project=(*tensors, None)[2])


class _Fed(torch.autograd.Function):
    """Zeros [T, R, G] to be added to what is fed back; their gradient is booked as the weight's and the bias'."""

    @staticmethod
    def forward(
        ctx: Any,
        like: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        book: Book,
        before: list[torch.Tensor],
    ) -> torch.Tensor:
        ctx.weight, ctx.bias, ctx.book, ctx.before = weight, bias, book, before
        return torch.zeros_like(like)

    @staticmethod
    @untracked
    def backward(ctx: Any, saved: tuple[torch.Tensor, ...], gradient: torch.Tensor) -> tuple[None, ...]:
        book, gradient = ctx.book, gradient.transpose(0, 1)
        if book.wants(ctx.bias):
            book.add(ctx.bias, Direct(wide(gradient).sum(1)))
        if book.wants(ctx.weight):
            book.add(ctx.weight, Product(gradient, torch.stack(ctx.before, 1)))
        return None, None, None, None, None


def _layer(
    book: Book, cell: Cell, x: torch.Tensor, state: State, weights: _Weights, reverse: bool
) -> tuple[torch.Tensor, State]:
    """x [T, R, I] and the first state -> outputs [T, R, H] and the last state."""
    given = tracked_linear(book, x.transpose(0, 1), weights.read, weights.read_bias).transpose(0, 1)
    before: list[torch.Tensor] = []  # the outputs that are fed back, as the loop fills it
    zeros = None
    if book.wants(weights.feed) or book.wants(weights.feed_bias):
        zeros = _Fed.apply(given, weights.feed, weights.feed_bias, book, before).unbind()
    weight = weights.feed.detach().to(given.dtype)
    bias = None if weights.feed_bias is None else weights.feed_bias.detach().to(given.dtype)
    times = range(len(x))[::-1] if reverse else range(len(x))
    outputs = [given] * len(x)
    for step, (time, read) in enumerate(zip(times, _in_order(given, reverse), strict=True)):
        fed = F.linear(state[0], weight, bias)
        if zeros is not None:
            before.append(state[0].detach())
            fed = fed + zeros[step]
        state = cell(read, fed, state)
        if weights.project is not None:
            state = (tracked_linear(book, state[0], weights.project, None), *state[1:])
        outputs[time] = state[0]
    return torch.stack(outputs), state


def _in_order(given: torch.Tensor, reverse: bool) -> Sequence[torch.Tensor]:
    return given.unbind()[::-1] if reverse else given.unbind()


def _unrolled(
    cell: Cell,
    book: Book,
    input: torch.Tensor,
    first: torch.Tensor | State,
    parameters: Any,
    *options: Any,
    **unknown: Any,
) -> Any:
    """`torch.lstm(input, (h, c), parameters, ...)`, `torch.gru(input, h, parameters, ...)` and their like.

    A packed sequence has the sizes of its times in the second place.
    """
    if isinstance(first, torch.Tensor) and first.dim() == 1:
        wanted = next(tensor for tensor in options[0] if book.wants(tensor))
        raise book.refuse(
            wanted,
            "a packed sequence has its records in another order. Give the layer padded notes, and mask what it "
            "puts out at the padding.",
        )
    states = (first,) if isinstance(first, torch.Tensor) else tuple(first)
    if unknown or any(map(book.wants, (input, *states))) or not book.shared.owns(*parameters):
        return NotImplemented
    bias, layers, dropout, training, both, batch_first = options
    directions = 2 if both else 1
    each = len(parameters) // (layers * directions)
    of = [_Weights.listed(parameters[i : i + each], bias) for i in range(0, len(parameters), each)]
    x = autocast(input.transpose(0, 1) if batch_first else input)
    last: list[State] = []
    for layer in range(layers):
        # [T, R, H] in memory as torch has it, so that dropout draws the same mask
        x = F.dropout(x, dropout, training) if layer else x
        outputs = []
        for reverse in (False, True)[:directions]:
            number = len(last)
            start = tuple(autocast(one[number]) for one in states)
            out, state = _layer(book, cell, x, start, of[number], reverse)
            outputs.append(out)
            last.append(state)
        x = torch.cat(outputs, 2) if both else outputs[0]
    finals = (torch.stack(one) for one in zip(*last, strict=True))
    return (x.transpose(0, 1) if batch_first else x, *finals)


def _one_time(
    cell: Cell,
    book: Book,
    input: torch.Tensor,
    before: torch.Tensor | State,
    *parameters: torch.Tensor | None,
) -> Any:
    """`torch.lstm_cell(input, (h, c), w_ih, w_hh, b_ih, b_hh)`, `torch.gru_cell(input, h, ...)` and their like."""
    state = (before,) if isinstance(before, torch.Tensor) else tuple(before)
    if any(map(book.wants, (input, *state))) or not book.shared.owns(*parameters):
        return NotImplemented
    weights = _Weights(*parameters)  # type: ignore[arg-type]
    read = tracked_linear(book, input, weights.read, weights.read_bias)
    fed = tracked_linear(book, state[0], weights.feed, weights.feed_bias)
    after = cell(read, fed, state)
    return after[0] if isinstance(before, torch.Tensor) else after


for _whole, _single, _cell in (
    (torch.lstm, torch.lstm_cell, _lstm),
    (torch.gru, torch.gru_cell, _gru),
    (torch.rnn_tanh, torch.rnn_tanh_cell, _rnn(torch.tanh)),
    (torch.rnn_relu, torch.rnn_relu_cell, _rnn(torch.relu)),
):
    rule(_whole)(functools.partial(_unrolled, _cell))
    rule(_single)(functools.partial(_one_time, _cell))
