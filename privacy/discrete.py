"""Gaussian noise in whole numbers, with a certificate: no floating-point number takes part in drawing it.

Written rho_s(x) = exp(-x^2 / 2 s^2). The discrete Gaussian D_s has P(n) = rho_s(n) / rho_s(Z) for every whole n
(Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy"). What is drawn here is

    N = X_0 + k X_1 + ... + k^(L-1) X_(L-1),    X_j independent D_b,    b = s / sqrt(1 + k^2 + ... + k^(2L-2)),

each X_j by inverting a table of 192-bit probabilities, exactly, bit by bit as far as needed (Knuth and Yao 1976).
Four facts bind N to the *continuous* Gaussian that the accountants know. Let e(r) = 2.1 exp(-2 pi^2 r^2).

1. *Smoothing*. rho_r(Z + c) = r sqrt(2 pi) (1 + 2 sum_n>0 exp(-2 pi^2 r^2 n^2) cos(2 pi n c)) by Poisson's formula,
   hence within a factor 1 +- e(r) of r sqrt(2 pi), for any real c, if r >= 1.
2. *Sums* (Peikert 2010, theorem 3.1; Kairouz, Liu, Steinke 2021, section 3). For A ~ D_a, B ~ D_b independent and
   whole k: rho_a(m) rho_b(n - k m) = rho_s(n) rho_r(m - t n) with s^2 = k^2 a^2 + b^2, r = a b / s and a t without
   m in it. Summed over m by 1.: k A + B has the law of D_s within a factor (1 + e(r)) / (1 - e(r)), point by point.
   Level by level r >= b / sqrt(k^2 + 1); for the sum of h noises of one deviation s, r >= s / sqrt(2).
3. *Post-processing*. Let Y ~ N(0, s^2 - R^2), and given Y = y draw n with P(n) = rho_R(n - y) / rho_R(Z - y).
   The law of n is that of D_s within a factor (1 + e(R)) / (1 - e(R)), by 1. below the integral and the convolution
   of two Gaussians; and drawing from y + x, for whole x, gives n + x. So x + N is, within such a factor a
   coordinate, a randomised function of x + N(0, s^2 - R^2): every epsilon, delta, PLD or RDP of the Gaussian
   mechanism, subsampled and composed as may be, holds for it. With R = 3 the deviation lost is 4.5 / s^2 of s.
4. *Table*. Lower bounds of the probabilities are rounded down to multiples of 2^-192 and zero receives all that
   is missing to 1. So only zero is too likely, and the total variation distance to D_b is at most that missing
   part, whatever made the bounds loose: it holds the tails, the interval arithmetic and the rounding.

`distance` adds up 2., 3. and 4. as a bound on total variation, below 2^-172 a draw. `delta_increase` says what that
adds to delta: far less than the accountants' own rounding, so that nothing adds it to a claim.
What remains assumed is that the AES-256-CTR keystream cannot be told from random bits.

The time of a draw depends a little on its random bits, never on what the noise is added to.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from privacy.errors import NoiseError

SMOOTHING = 3  # R of the post-processing argument, in lattice units
LEAST_STD = 8.0  # for which `distance` is proved
MOST_STD = 2.0**48  # for which a sum of noises fits 64 bits
CHUNK = 1 << 15  # coordinates at a time: the interpreter costs little beside them, and they stay in cache
_DIGIT, _DEPTH = 16, 192  # bits of a table look-up, and of a probability
_WORK = 320  # bits of the interval arithmetic
_LARGEST_BASE = 640  # of the deviation b: its table fits a cache, and 98 % of draws need one look-up
_LEVEL_SMOOTHING = 2.5  # the least r of fact 2.: smaller needs fewer levels and has a larger `distance`


def keystream() -> CipherContext:
    """Random bytes (as encrypted zeros) under a fresh key of the operating system: no seed, fork or copy repeats it."""
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


class DiscreteGaussian:
    """The discrete Gaussian of one deviation, in lattice units: whole numbers, exact up to `distance`.

    Args:
        std: the deviation s, in [8, 2^48]. The variance is s^2 (to 2^-190).

    Attributes:
        std: the deviation s.
        bound: no draw is ever beyond it, about 16 to 17 deviations.
        distance: bound on the total variation distance, a draw, between `shift + draw` and a randomised function
            of `shift + N(0, s^2 - 9)`, for any whole shift.

    Raises:
        NoiseError: the deviation is out of range.
    """

    def __init__(self, std: float) -> None:
        if not LEAST_STD <= std <= MOST_STD:
            raise NoiseError(
                f"Whole-number noise needs a deviation of {LEAST_STD:g} to {MOST_STD:g} lattice steps. Found {std!r}."
            )
        self.std = std
        self._levels, self._factor = _levels(std)
        variance = _base(std, self._levels, self._factor)
        self._table = _table(variance)
        self.bound = self._table.largest * sum(self._factor**level for level in range(self._levels))
        tables, sums = self._levels * self._table.distance, (self._levels - 1) * _departure(_LEVEL_SMOOTHING)
        self.distance = tables + sums + _departure(SMOOTHING)

    def draw(self, n: int) -> np.ndarray:
        """`n` independent draws, int64, shape [n]."""
        out = np.empty(n, np.int64)
        done = 0
        for part in self.chunks(n):
            out[done : done + len(part)] = part
            done += len(part)
        return out

    def chunks(self, n: int) -> Iterator[np.ndarray]:
        """`n` draws as vectors of at most `CHUNK`, int64, each valid until the next is drawn."""
        size = min(n, CHUNK)
        stream, zeros = keystream(), bytes(2 * self._levels * size)
        keys = bytearray(len(zeros) + 16)  # the cipher wants room for a block
        digits = np.frombuffer(keys, "<u2", self._levels * size)
        total, found = np.empty(size, np.int64), np.empty(self._levels * size, np.int16)
        for start in range(0, n, CHUNK):
            stream.update_into(zeros, keys)
            highest, *rest = self._table.look_up(digits, stream, found).reshape(self._levels, size)
            total[:] = highest
            for level in rest:  # Horner's scheme
                total *= self._factor
                total += level
            yield total[: n - start]


def gaussian_std(std: float, shares: int = 1) -> float:
    """The continuous deviation that the sum of `shares` draws of deviation `std` stands for: sqrt(shares s^2 - 9).

    Fact 2. makes the sum of m discrete Gaussians D_(s sqrt m), fact 3. makes that N(0, m s^2 - 9).
    """
    return math.sqrt(max(0.0, shares * std**2 - SMOOTHING**2))


def discrete_std(continuous: float, shares: int = 1) -> float:
    """The least deviation of one of `shares` draws whose sum stands for N(0, continuous^2): `gaussian_std` inverted."""
    std = math.sqrt((continuous**2 + SMOOTHING**2) / shares)
    while gaussian_std(std, shares) < continuous:
        std = math.nextafter(std, math.inf)
    return std


def delta_increase(std: float, draws: float, epsilon: float) -> float:
    """What would have to be added to delta, since a draw is a discrete Gaussian to within `distance` alone.

    Two mechanisms whose transcripts differ by beta in total variation: if the one is (epsilon, delta)-private, the
    other is (epsilon, delta + (1 + e^epsilon) beta)-private.

    Args:
        std: deviation of a draw, in lattice units.
        draws: all draws of a run: coordinates x releases x sites.
        epsilon: the epsilon that is claimed.
    """
    sums = _departure(std / math.sqrt(2))  # fact 2. for the sum of shares: at most one for each draw
    return (1 + math.exp(epsilon)) * draws * (DiscreteGaussian(std).distance + sums)


def _departure(smoothness: float) -> float:
    """(1 + e(r)) / (1 - e(r)) - 1, rounded up: how far a factor of facts 2. and 3. moves a law, in total variation.

    2.1 stands for the whole series, and more: 2 / (1 - exp(-6 pi^2)) < 2.1 for r >= 1.
    """
    smoothing = 2.1 * math.exp(-2 * math.pi**2 * smoothness**2)
    return 2.1 * smoothing


def _levels(std: float) -> tuple[int, int]:
    """L and k: the fewest levels whose deviation a table holds, smooth over the k-fold lattice (fact 2.)."""
    levels, factor = 1, 1
    while _base(std, levels, factor) > _LARGEST_BASE**2:
        levels += 1
        factor = max(1, math.floor((std / _LEVEL_SMOOTHING) ** (1 / levels)) - 1)
        while _base(std, levels, factor + 1) >= _smooth(factor + 1):
            factor += 1
    return levels, factor


def _smooth(factor: int) -> Fraction:
    """The least variance of a level by fact 2."""
    return Fraction(_LEVEL_SMOOTHING) ** 2 * (factor**2 + 1)


def _base(std: float, levels: int, factor: int) -> Fraction:
    """The variance b^2 of a level."""
    return Fraction(std) ** 2 / sum(factor ** (2 * level) for level in range(levels))


class _Table:
    """Exact inversion of whole probabilities p[n] / 2^192, n from -largest to largest.

    p[n] is written in three digits of 16, 16 and 160 bits. A draw looks up its first 16 bits; where the first digits
    do not cover them it goes on with 16 bits more among the second digits, and then, about once in a million draws,
    with 160 bits among the third.
    """

    def __init__(self, probabilities: list[int], distance: float) -> None:
        self.distance = distance
        self.largest = len(probabilities) // 2
        rest = _DEPTH - _DIGIT
        values = np.arange(-self.largest, self.largest + 1, dtype=np.int16)
        first = [p >> rest for p in probabilities]
        self._covered = sum(first)
        self._first = np.zeros(1 << _DIGIT, np.int16)
        self._first[: self._covered] = np.repeat(values, first)
        rest -= _DIGIT
        mask = (1 << _DIGIT) - 1
        self._second = np.cumsum([(p >> rest) & mask for p in probabilities], dtype=np.int64)
        self._third = list(accumulate(p & ((1 << rest) - 1) for p in probabilities))

    def look_up(self, digits: np.ndarray, stream: CipherContext, out: np.ndarray) -> np.ndarray:
        """Invert one uniform for each of `digits` (uint16), taking more bits of `stream` where needed. Fills `out`."""
        self._first.take(digits, mode="clip", out=out)
        open_ = np.flatnonzero(digits >= self._covered)
        if len(open_):
            more = np.frombuffer(stream.update(bytes(2 * len(open_))), "<u2").astype(np.int64)
            beyond = ((digits[open_].astype(np.int64) - self._covered) << _DIGIT) | more
            place = np.searchsorted(self._second, beyond, side="right")
            for i in np.flatnonzero(beyond >= self._second[-1]):
                place[i] = self._last(int(beyond[i] - self._second[-1]), stream)
            out[open_] = place - self.largest
        return out

    def _last(self, beyond: int, stream: CipherContext) -> int:
        rest = _DEPTH - 2 * _DIGIT
        return bisect_right(
            self._third, beyond << rest | int.from_bytes(stream.update(bytes(rest // 8)), "little")
        )


@lru_cache(maxsize=16)
def _table(variance: Fraction) -> _Table:
    low, high = _exponential(-1 / (2 * variance))
    below, above = _weights(low, up=False), _weights(high, up=True)
    total = above[0] + 2 * sum(above[1:])  # at least rho(Z)
    zero, *positive = [(weight << _DEPTH) // total for weight in below]
    positive = positive[: positive.index(0)]
    missing = (1 << _DEPTH) - zero - 2 * sum(positive)
    distance = math.ldexp(missing, -_DEPTH) * (1 + 1e-12)
    return _Table([*reversed(positive), zero + missing, *positive], distance)


def _exponential(exponent: Fraction) -> tuple[int, int]:
    """Bounds of e^exponent for an exponent in [-1, 0), times 2^320: two partial sums of its alternating series."""
    term = previous = total = Fraction(1)
    n = 0
    while n % 2 == 0 or abs(term) >= Fraction(1, 1 << _WORK):
        n += 1
        term = term * exponent / n
        previous, total = total, total + term
    low, high = min(previous, total), max(previous, total)
    return math.floor(low * (1 << _WORK)), math.ceil(high * (1 << _WORK))


def _weights(step: int, up: bool) -> list[int]:
    """rho(0), rho(1), ..., times 2^320, from step = rho(1); all rounded up, or all down.

    rho(n + 1) = rho(n) q_n with q_n = step^(2n + 1). Rounded up, the last weight bounds the sum of all from there on:
    the geometric series of their first ratio.
    """

    def product(a: int, b: int) -> int:
        return -((-a * b) >> _WORK) if up else (a * b) >> _WORK

    one = 1 << _WORK
    weights, ratio, square = [one], step, product(step, step)
    while weights[-1] >> (_WORK - _DEPTH):
        weights.append(product(weights[-1], ratio))
        ratio = product(ratio, square)
    if up:
        weights[-1] = -((-weights[-1] * one) // (one - ratio))
    return weights
