"""Swapped, replayed, reflected, low-order and Sybil keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import SecureSumRefusal
from privacy.secure_sum import Coordinator, Introduction, Terms
from privacy.secure_sum.keys import Bundle, _signed, introduce, pair_key, read_bundle
from tests.privacy.secure_sum.federation import Federation, identity, make_terms, name, names

PRIME = (1 << 255) - 19
# Points of order 1, 2, 4 and 8 on the curve and its twist (RFC 7748, section 6; Bernstein's list).
LOW_ORDER = [
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    PRIME - 1,
]


def raw(secret: X25519PrivateKey) -> bytes:
    return secret.public_key().public_bytes_raw()


def signed(terms: Terms, of: str, key: bytes, by: Ed25519PrivateKey) -> Introduction:
    return Introduction(of, key.hex(), by.sign(_signed(terms, of, key)).hex())


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path / "run", make_terms())


def refused(federation: Federation, match: str, *others: Introduction, drop: str = "") -> None:
    """The first site and the server both refuse the keys with `others` put in; the first site met nobody by it."""
    bundle = {k: v for k, v in federation.introductions.items() if k != drop} | {
        one.name: one for one in others
    }
    with pytest.raises(SecureSumRefusal, match=match):
        federation.sites[name(0)].meet(list(bundle.values()))
    with pytest.raises(SecureSumRefusal, match="met"):
        federation.sites[name(0)].answer(federation.request(), lambda: pytest.fail("drawn"))


EVIL = X25519PrivateKey.generate()


def test_a_swapped_key_under_the_old_signature_is_refused(federation: Federation) -> None:
    refused(federation, "not signed", replace(federation.introductions[name(1)], key=raw(EVIL).hex()))


def test_a_swapped_key_under_the_servers_own_signature_is_refused(federation: Federation) -> None:
    refused(
        federation, "not signed", signed(federation.terms, name(1), raw(EVIL), Ed25519PrivateKey.generate())
    )


def test_two_sites_introductions_swapped_are_refused(federation: Federation) -> None:
    one, two = federation.introductions[name(1)], federation.introductions[name(2)]
    refused(federation, "not signed", replace(two, name=one.name), replace(one, name=two.name))


@pytest.mark.parametrize(
    "change", [{"run": "run-0"}, {"noise_multiplier": 0.01}, {"honest": 1}, {"roster": make_terms(3).roster}]
)
def test_a_key_of_another_run_or_of_other_terms_replayed_is_refused(
    federation: Federation, tmp_path: Path, change: dict[str, object]
) -> None:
    old = Federation(tmp_path / "old", replace(federation.terms, least_cohort=3, **change))
    refused(federation, "not signed", old.introductions[name(1)])


def test_a_sybil_is_refused(federation: Federation) -> None:
    refused(federation, "roster", signed(federation.terms, name(99), raw(EVIL), Ed25519PrivateKey.generate()))


def test_one_introduction_under_two_names_is_refused(federation: Federation) -> None:
    refused(federation, "another site's", replace(federation.introductions[name(1)], name=name(2)))


def test_a_colluder_that_reflects_anothers_key_as_its_own_is_refused(federation: Federation) -> None:
    for victim in (0, 1):
        key = bytes.fromhex(federation.introductions[name(victim)].key)
        refused(federation, "another site's", signed(federation.terms, name(2), key, identity(name(2))))


def test_this_sites_own_key_replaced_or_left_out_is_refused(federation: Federation) -> None:
    refused(
        federation, "does not hold the key", signed(federation.terms, name(0), raw(EVIL), identity(name(0)))
    )
    refused(federation, "does not hold the key", drop=name(0))


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_signed_by_a_colluder_is_refused(federation: Federation, point: int) -> None:
    key = point.to_bytes(32, "little")
    refused(federation, "low order", signed(federation.terms, name(1), key, identity(name(1))))
    with pytest.raises(SecureSumRefusal, match="low order"):
        pair_key(federation.terms, EVIL, key)


@pytest.mark.parametrize(
    "form", [lambda k: k | 1 << 255, lambda _: PRIME, lambda _: PRIME + 1, lambda _: PRIME + 9]
)
def test_a_second_form_of_one_point_is_refused(federation: Federation, form: Callable[[int], int]) -> None:
    honest = int.from_bytes(bytes.fromhex(federation.introductions[name(2)].key), "little")
    key = form(honest).to_bytes(32, "little")
    refused(federation, "not an X25519 public key", signed(federation.terms, name(1), key, identity(name(1))))


@pytest.mark.parametrize("key", ["", "zz", "00" * 31, "00" * 33, "AB" * 32])
def test_what_is_no_key_is_refused(federation: Federation, key: str) -> None:
    refused(federation, "not an X25519 public key", replace(federation.introductions[name(1)], key=key))


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64])
def test_what_is_no_signature_is_refused(federation: Federation, signature: str) -> None:
    refused(federation, "not signed", replace(federation.introductions[name(1)], signature=signature))


def test_two_keys_for_one_site_are_refused(federation: Federation) -> None:
    introductions = [*federation.introductions.values(), federation.introductions[name(1)]]
    with pytest.raises(SecureSumRefusal, match="Two keys"):
        federation.sites[name(0)].meet(introductions)


def test_too_few_sites_are_refused(federation: Federation) -> None:
    with pytest.raises(SecureSumRefusal, match="Keys of 2"):
        federation.sites[name(0)].meet([federation.introductions[one] for one in names(2)])


def test_a_second_bundle_in_a_run_is_refused_also_after_a_restart(federation: Federation) -> None:
    federation.meet()
    federation.meet()  # the same one is welcome
    for site in (federation.sites[name(0)], federation.open(name(0))):
        with pytest.raises(SecureSumRefusal, match="Other keys"):
            site.meet([federation.introductions[one] for one in names(3)])
        again = signed(federation.terms, name(1), raw(EVIL), identity(name(1)))  # even with a true signature
        with pytest.raises(SecureSumRefusal, match="Other keys"):
            site.meet(list((federation.introductions | {name(1): again}).values()))


def test_the_server_names_a_bad_key_too(federation: Federation) -> None:
    bad = replace(federation.introductions[name(1)], key=raw(EVIL).hex())
    with pytest.raises(SecureSumRefusal, match=name(1)):
        Coordinator(federation.terms, list((federation.introductions | {name(1): bad}).values()))


def test_a_bundle_is_one_whatever_its_order_and_is_read_back(federation: Federation) -> None:
    introductions = list(federation.introductions.values())
    bundle = Bundle(federation.terms, introductions)
    turned = Bundle(federation.terms, introductions[::-1])
    again = read_bundle(federation.terms, bundle.content)
    assert bundle.digest == turned.digest == again.digest
    assert again.names == names(4)
    for content in (b"", b"[1]", b"{}x", b"[[1,2]]", b"[" * 10_000):
        with pytest.raises(SecureSumRefusal):
            read_bundle(federation.terms, content)


def test_both_ends_share_a_key_that_no_other_pair_run_or_terms_share() -> None:
    terms, other = make_terms(), make_terms(run="run-2")
    one, two, three = (X25519PrivateKey.generate() for _ in range(3))
    assert pair_key(terms, one, raw(two)) == pair_key(terms, two, raw(one))
    keys = {
        pair_key(t, a, raw(b)) for t in (terms, other) for a, b in ((one, two), (one, three), (two, three))
    }
    assert len(keys) == 6


def test_a_pair_key_is_what_it_always_was() -> None:
    # A fixed vector: a change means that old and new sites cannot take part in one run.
    one, two = (X25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
    assert (
        pair_key(make_terms(), one, raw(two)).hex()
        == "33df6cfcc6276e3c24b40fecaac2dba98b60c29a88edae314aee9eb8a7bb18d3"
    )
    assert (
        introduce(make_terms(), name(0), identity(name(0)), one).signature[:32]
        == "71502e304050f6eba466dbecf1324cac"
    )


def test_a_site_that_is_not_on_the_roster_under_its_own_key_does_not_take_part(tmp_path: Path) -> None:
    from privacy.secure_sum import Site
    from tests.privacy.secure_sum.federation import FileAccount

    for of, key in ((name(9), name(9)), (name(0), name(1))):
        with pytest.raises(SecureSumRefusal, match="roster"):
            Site(tmp_path / "x", of, identity(key), make_terms(), FileAccount(tmp_path / "ledger"))
