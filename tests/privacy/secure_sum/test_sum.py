"""All sites and the server together: exact sums, their noise, drop-outs, split views and colluders."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from privacy.errors import SecureSumRefusal, VoidStep
from privacy.secure_sum import Terms
from privacy.secure_sum.keys import Bundle
from privacy.secure_sum.masks import add_masks, mask_key, neighbours
from tests.privacy.secure_sum.federation import (
    MODEL,
    Federation,
    looks_uniform,
    make_terms,
    name,
    names,
    zeros,
)

ALARM = 1e-6
# So little noise on so fine a lattice that a sum is seen to be right.
FAINT = {"noise_multiplier": 1e-9, "lattice_step": 2.0**-40}


def vectors(terms: Terms, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {one: rng.normal(size=terms.dimension) for one, _ in terms.roster}


def gather(
    federation: Federation, step: int, sums: dict[str, np.ndarray], cohort: tuple[str, ...]
) -> np.ndarray:
    server = federation.server()
    request = server.ask(step, cohort, MODEL)
    for one in cohort:
        server.add(one, federation.sites[one].answer(request, lambda one=one: sums[one]))
    return server.total()


@pytest.mark.parametrize("sites", [2, 3, 4, 16, 40])
def test_the_sum_over_sites_is_the_pooled_sum(tmp_path: Path, sites: int) -> None:
    terms = make_terms(sites, dimension=300, honest=max(1, 3 * sites // 4), **FAINT)
    federation = Federation(tmp_path / "run", terms).meet()
    sums = vectors(terms)
    total = gather(federation, 1, sums, federation.names)
    assert np.abs(total - sum(sums.values())).max() < 1e-7


def test_thirty_two_bits_give_it_too(tmp_path: Path) -> None:
    terms = make_terms(4, word_bits=32, noise_multiplier=1e-4, lattice_step=2.0**-20)
    federation = Federation(tmp_path / "run", terms).meet()
    sums = vectors(terms)
    total = gather(federation, 1, sums, federation.names)
    assert np.abs(total - sum(sums.values())).max() < 2e-3


def test_a_site_that_drops_out_before_or_after_its_words_voids_the_attempt_only(tmp_path: Path) -> None:
    terms = make_terms(4, **FAINT)
    federation = Federation(tmp_path / "run", terms).meet()
    sums, server = vectors(terms), federation.server()

    def collect(cohort: tuple[str, ...], silent: str) -> None:
        request = server.ask(1, cohort, MODEL)
        for one in cohort:
            if one != silent:
                server.add(one, federation.sites[one].answer(request, lambda one=one: sums[one]))

    collect(names(4), silent=name(2))  # it never answered
    assert server.missing == (name(2),)
    with pytest.raises(VoidStep, match=name(2)):
        server.total()
    left = tuple(one for one in names(4) if one != name(2))
    late = federation.sites[name(2)].answer(
        federation.request(), lambda: sums[name(2)]
    )  # after its mask was used
    collect(left, silent="")
    with pytest.raises(SecureSumRefusal, match="waited"):
        server.add(name(2), late)
    assert np.abs(server.total() - sum(sums[one] for one in left)).max() < 1e-7
    for one in left:
        assert federation.account(one).charges() == [1, 2]
    total = gather_from(server, federation, 2, sums)  # and all are back in the next step
    assert np.abs(total - sum(sums.values())).max() < 1e-7


def gather_from(server: object, federation: Federation, step: int, sums: dict[str, np.ndarray]) -> np.ndarray:
    request = server.ask(step, federation.names, MODEL)
    for one in federation.names:
        server.add(one, federation.sites[one].answer(request, lambda one=one: sums[one]))
    return server.total()


def test_void_attempts_are_counted_against_the_repeats_on_both_sides(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", make_terms(steps=1, repeats=2)).meet()
    server = federation.server()
    for _ in range(3):
        request = server.ask(1, federation.names, MODEL)
        federation.sites[name(0)].answer(request, zeros(federation.terms))
    with pytest.raises(SecureSumRefusal, match="All 3 attempts"):
        server.ask(1, federation.names, MODEL)
    with pytest.raises(SecureSumRefusal, match="room for 3"):
        federation.sites[name(0)].answer(federation.request(attempt=4), zeros(federation.terms))


def test_the_server_refuses_strangers_doubles_and_wrong_lengths(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "run", make_terms()).meet()
    server = federation.server()
    with pytest.raises(VoidStep):
        server.total()
    request = server.ask(1, federation.names, MODEL)
    answer = federation.sites[name(0)].answer(request, zeros(federation.terms))
    server.add(name(0), answer)
    for of, words in ((name(0), answer), (name(9), answer), (name(1), answer[:-1]), (name(1), b"")):
        with pytest.raises(SecureSumRefusal):
            server.add(of, words)
    assert server.missing == names(4)[1:]
    for cohort in (names(2), (*names(3), name(9))):
        with pytest.raises(SecureSumRefusal):
            server.ask(2, cohort, MODEL)
    with pytest.raises(SecureSumRefusal, match="step"):
        server.ask(5, federation.names, MODEL)


def test_the_noise_of_the_sum_has_the_exact_probabilities_of_its_shares(tmp_path: Path) -> None:
    # A lattice so coarse that every number is seen: the sum of four discrete Gaussians is one again.
    terms = make_terms(4, dimension=250, noise_multiplier=2.0, lattice_step=2.0**-4, steps=40, repeats=0)
    federation = Federation(tmp_path / "run", terms).meet()
    server = federation.server()
    nothing = {one: np.zeros(250) for one in federation.names}
    drawn = np.concatenate([gather_from(server, federation, step, nothing) for step in range(1, 41)])
    steps = np.rint(drawn / terms.lattice_step).astype(int)
    assert np.array_equal(steps * terms.lattice_step, drawn)
    std = 2 * terms.lattice.noise.std
    assert abs(steps.mean()) < stats.norm.isf(ALARM / 2) * std / math.sqrt(len(steps))
    assert abs(steps.var() / std**2 - 1) < stats.norm.isf(ALARM / 2) * math.sqrt(2 / len(steps))
    reach = int(2.5 * std)
    expected = (
        len(steps)
        * np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
        / (std * math.sqrt(2 * math.pi))
    )
    counts = np.bincount(steps[np.abs(steps) <= reach] + reach, minlength=2 * reach + 1)
    tails = [np.count_nonzero(steps < -reach), np.count_nonzero(steps > reach)]
    rest = (len(steps) - expected.sum()) / 2
    assert expected.min() > 2
    assert stats.chisquare(np.append(counts, tails), np.append(expected, [rest, rest])).pvalue > ALARM


@pytest.mark.parametrize("bits", [32, 64])
def test_an_honest_cohorts_noise_is_that_of_its_shares(tmp_path: Path, bits: int) -> None:
    terms = make_terms(4, dimension=50_000, word_bits=bits)
    federation = Federation(tmp_path / "run", terms).meet()
    nothing = {one: np.zeros(terms.dimension) for one in federation.names}
    total = gather(federation, 1, nothing, federation.names) / terms.lattice.factor
    wanted = terms.lattice.multiplier(4)
    assert wanted == pytest.approx(2.0 * math.sqrt(4 / 3))
    assert abs(total.std() / wanted - 1) < stats.norm.isf(ALARM / 2) / math.sqrt(2 * len(total))


@pytest.mark.parametrize("colluders", [0, 1, 2, 3])
def test_colluders_who_take_off_their_pads_and_parts_still_see_the_shares_of_the_others(
    tmp_path: Path, colluders: int
) -> None:
    terms = make_terms(4, dimension=50_000)
    federation = Federation(tmp_path / "run", terms).meet()
    request = federation.request()
    answers = {one: federation.words(federation.sites[one].answer(request, zeros(terms))) for one in names(4)}
    against, rest = names(4)[:colluders], names(4)[colluders:]
    total = sum((answers[one] for one in rest), np.zeros(terms.dimension, np.uint64))
    context = request.context(terms.digest, Bundle(terms, list(federation.introductions.values())).digest)
    for one in against:  # what they share with each of the rest they can take off
        for other in rest:
            minus = np.zeros(terms.dimension, np.uint64)
            add_masks(minus, other, {one: mask_key(federation.sites[one]._pairs[other], context)})
            total -= minus
    left = (total.view(np.int64) * terms.lattice_step / terms.lattice.factor).std()
    wanted = 2.0 * math.sqrt((4 - colluders) / 3)
    assert terms.lattice.multiplier(4 - colluders) == pytest.approx(wanted)
    assert abs(left / wanted - 1) < stats.norm.isf(ALARM / 2) / math.sqrt(2 * terms.dimension)


def split(federation: Federation, odd: dict[str, object], who: tuple[str, ...] = (name(2),)) -> None:
    """Some sites are shown another request: no sum comes of it, whichever answers are added up."""
    server = federation.server()
    usual = server.ask(1, federation.names, MODEL)
    answers = {}
    for one in federation.names:
        request = federation.request(**odd) if one in who else usual
        answers[one] = federation.sites[one].answer(request, zeros(federation.terms))
        server.add(one, answers[one])
    with pytest.raises(SecureSumRefusal, match="cancel"):
        server.total()
    bits = federation.terms.word_bits
    for some in (federation.names, who, tuple(one for one in federation.names if one not in who)):
        assert looks_uniform(federation.added({one: answers[one] for one in some}), bits)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(
    "odd",
    [
        {"cohort": (name(0), name(2), name(3))},
        {"model": hashlib.sha256(b"another").digest()},
        {"step": 2},
        {"attempt": 2},
    ],
    ids=["cohort", "model", "step", "attempt"],
)
def test_split_views_give_garbage_and_no_part_of_a_sum(
    tmp_path: Path, odd: dict[str, object], bits: int
) -> None:
    split(Federation(tmp_path / "run", make_terms(dimension=20_000, word_bits=bits)).meet(), odd)


def test_halves_of_a_large_cohort_shown_two_models_give_no_sum_of_a_half(tmp_path: Path) -> None:
    terms = make_terms(36, dimension=20_000, honest=27, least_cohort=27)
    federation = Federation(tmp_path / "run", terms).meet()
    split(federation, {"model": hashlib.sha256(b"another").digest()}, who=names(36)[::2])


def test_two_bundles_of_keys_give_garbage(tmp_path: Path) -> None:
    # The server tells one site that a fourth never came.
    terms = make_terms(4, dimension=20_000)
    federation = Federation(tmp_path / "run", terms)
    three = [federation.introductions[one] for one in names(3)]
    for one in names(3):
        federation.sites[one].meet(three if one == name(0) else list(federation.introductions.values()))
    request = federation.request(cohort=names(3))
    answers = {one: federation.sites[one].answer(request, zeros(terms)) for one in names(3)}
    assert looks_uniform(federation.added(answers), 64)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_less_than_the_whole_cohort_is_uniform(tmp_path: Path, missing: int) -> None:
    terms = make_terms(4, dimension=20_000)
    federation = Federation(tmp_path / "run", terms).meet()
    answers = {
        one: federation.sites[one].answer(federation.request(), zeros(terms)) for one in names(4 - missing)
    }
    assert looks_uniform(federation.added(answers), 64)


@pytest.mark.parametrize("bits", [32, 64])
def test_vectors_beyond_the_modulus_are_clamped_and_never_wrap(tmp_path: Path, bits: int) -> None:
    terms = make_terms(4, word_bits=bits, dimension=4)
    federation = Federation(tmp_path / "run", terms).meet()
    huge = {one: np.array([1e300, -1e300, np.inf, 0.0]) for one in federation.names}
    total = gather(federation, 1, huge, federation.names)
    most = 4 * terms.lattice.clamp * terms.lattice_step
    noise = 4 * terms.lattice.noise.bound * terms.lattice_step
    assert np.abs(total - np.array([most, -most, most, 0.0])).max() <= noise


def test_a_large_cohort_uses_few_pads_and_each_pad_twice(tmp_path: Path) -> None:
    terms = make_terms(40, dimension=10, honest=30, least_cohort=30)
    federation = Federation(tmp_path / "run", terms).meet()
    gather(federation, 1, {one: np.zeros(10) for one in federation.names}, federation.names)
    for one in federation.names:
        assert len(federation.sites[one]._pairs) == 12
    bundle = Bundle(terms, list(federation.introductions.values()))
    context = federation.request().context(terms.digest, bundle.digest)
    near = neighbours(name(0), federation.names, 30, context)
    assert set(federation.sites[name(0)]._pairs) == set(near)
