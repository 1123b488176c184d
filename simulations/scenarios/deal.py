"""Patients dealt to sites: pure functions of labels, numbers and a seed. Every patient goes to exactly one site."""

from __future__ import annotations

import numpy as np

from mmmed.errors import ConfigError
from simulations.scenarios import Scenario

_SCALINGS = 200  # of rows and columns in turn; some dozens are enough where shares are not extreme


def deal(kinds: np.ndarray, scenario: Scenario, seed: int) -> np.ndarray:
    """The site of each patient, for a split that is not natural.

    Args:
        kinds: (P,) int, the kind of each patient's labels, from 0.
        scenario: says how.
        seed: of the draw; the same gives the same.

    Returns:
        (P,) int64 from 0 to `scenario.sites` - 1.

    Raises:
        ConfigError: there are fewer patients than the sites must have.
    """
    patients, sites = len(kinds), scenario.sites
    if patients < sites * scenario.fewest:
        raise ConfigError(
            f"scenario: {patients} patients are not enough for {sites} sites of scenario.fewest = {scenario.fewest} "
            "each. Lower one of the two"
        )
    rng = np.random.default_rng([seed, 0x5CE7A210])
    sizes = site_sizes(patients, scenario, rng)
    dealt = np.empty(patients, dtype=np.int64)
    if scenario.split != "dirichlet":
        dealt[rng.permutation(patients)] = np.repeat(np.arange(sites), sizes)
        return dealt
    counts = label_counts(np.bincount(kinds), sizes, scenario.alpha, rng)
    for kind, of_sites in enumerate(counts):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        dealt[members] = np.repeat(np.arange(sites), of_sites)
    return dealt


def site_sizes(patients: int, scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    """(S,) int, patients of each site, `patients` in all: by the shares, but `scenario.fewest` at least."""
    shares = np.ones(scenario.sites)
    if scenario.split == "quantity":  # as in Li et al. 2022 (arXiv 2102.02079), quantity skew
        shares = np.array(scenario.shares) if scenario.shares else rng.dirichlet(shares * scenario.alpha)
    wanted = patients * shares / shares.sum()
    above = np.maximum(wanted - scenario.fewest, 0)
    rest = patients - scenario.sites * scenario.fewest
    return scenario.fewest + _whole(
        above * (rest / above.sum()) if above.sum() > 0 else above + rest / len(above)
    )


def label_counts(
    of_kinds: np.ndarray, sizes: np.ndarray, alpha: float, rng: np.random.Generator
) -> np.ndarray:
    """How many patients of each kind each site has, where sites have their own mix of kinds.

    A site's mix is drawn from a Dirichlet distribution about everybody's (Hsu et al. 2019, arXiv 1909.06335). What is
    drawn for all sites is then scaled, by kind and by site in turn, to the patients that there are and the sizes that
    sites have (iterative proportional fitting), so that label skew comes without quantity skew.

    Args:
        of_kinds: (K,) int, patients of each kind.
        sizes: (S,) int, patients of each site, as many in all.
        alpha: of the Dirichlet distribution, the sum of its parameters being `alpha` K.
        rng: public randomness.

    Returns:
        (K, S) int. Each row adds up to its kind exactly, each column to its site's size but for rounding.
    """
    prior = of_kinds / of_kinds.sum()
    mixes = np.stack([_dirichlet(np.maximum(alpha * len(prior) * prior, 1e-9), rng) for _ in sizes])
    table = np.maximum(mixes.T, 1e-6) * (of_kinds > 0)[:, None]
    for _ in range(_SCALINGS):
        table *= sizes / np.maximum(table.sum(axis=0), 1e-12)
        table *= (of_kinds / np.maximum(table.sum(axis=1), 1e-12))[:, None]
    counts = np.zeros(table.shape, dtype=np.int64)
    before = np.zeros(len(sizes))  # of the kinds so far, unrounded minus rounded: it keeps the sizes
    for kind, row in enumerate(table):
        counts[kind] = _whole(np.maximum(row + before, 0), int(of_kinds[kind]))
        before += row - counts[kind]
    return counts


def even_labels(kinds: np.ndarray, sites: np.ndarray, seed: int) -> np.ndarray:
    """(P,) bool, who is kept, so that every site has everybody's mix of kinds, as many patients as that leaves.

    Args:
        kinds: (P,) int, the kind of each patient's labels, from 0.
        sites: (P,) int, each patient's site, from 0.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 0x5A3E1AB5])
    mix = np.bincount(kinds) / len(kinds)
    kept = np.zeros(len(kinds), dtype=bool)
    for site in range(int(sites.max()) + 1):
        members = [np.flatnonzero((sites == site) & (kinds == kind)) for kind in range(len(mix))]
        size = min(len(own) / share for own, share in zip(members, mix, strict=True) if share)
        for own, share in zip(members, mix, strict=True):
            kept[rng.permutation(own)[: int(size * share + 1e-9)]] = True
    return kept


def _dirichlet(parameters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A draw that stays one where all parameters are tiny: then one kind has everything."""
    drawn: np.ndarray = rng.dirichlet(parameters)
    if np.isfinite(drawn).all():
        return drawn
    one: np.ndarray = np.eye(len(parameters))[rng.choice(len(parameters), p=parameters / parameters.sum())]
    return one


def _whole(values: np.ndarray, total: int | None = None) -> np.ndarray:
    """Non-negative values as whole numbers that add up to `total` (their own sum): the largest remainders go up."""
    total = round(float(values.sum())) if total is None else total
    if values.sum() > 0:
        values = values * (total / values.sum())
    down = np.floor(values + 1e-9).astype(np.int64)
    up = np.argsort(down - values, kind="stable")[: max(0, total - int(down.sum()))]
    down[up] += 1
    return down
