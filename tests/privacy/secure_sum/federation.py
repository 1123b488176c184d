"""Sites, keys and accounts for the tests of secure sums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import BudgetExceeded
from privacy.secure_sum import Coordinator, Introduction, Request, Site, Terms

MODEL = hashlib.sha256(b"the model of this step").digest()


def name(number: int) -> str:
    return f"site-{number:03d}"


def names(sites: int) -> tuple[str, ...]:
    return tuple(map(name, range(sites)))


def identity(of: str) -> Ed25519PrivateKey:
    """Stands for a site's own key."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"test identity " + of.encode()).digest())


def public(of: str) -> str:
    return identity(of).public_key().public_bytes_raw().hex()


def make_terms(sites: int = 4, **changes: Any) -> Terms:
    values = {
        "run": "run-1",
        "roster": tuple((one, public(one)) for one in names(sites)),
        "layout": hashlib.sha256(b"head.weight 3x500").hexdigest(),
        "dimension": 2000,
        "clip": 1.0,
        "noise_multiplier": 2.0,
        "honest": max(1, sites - 1),
        "colluders": 0,
        "least_cohort": max(2, sites - 1),
        "sampling_rate": 0.5,
        "steps": 4,
        "repeats": 2,
        "lattice_step": 2.0**-20,
    }
    return Terms(**(values | changes))


class FileAccount:
    """Stands for a site's ledger: a file of its own, one flushed line a charge."""

    def __init__(self, path: Path, most: int = 10**6) -> None:
        self.path, self.most = path, most

    def charges(self) -> list[int]:
        return list(map(int, self.path.read_text().split())) if self.path.exists() else []

    def last(self) -> int:
        return max(self.charges(), default=0)

    def charge(self, attempt: int) -> None:
        if len(self.charges()) >= self.most:
            raise BudgetExceeded("nothing left")
        with self.path.open("a") as file:
            file.write(f"{attempt}\n")
            file.flush()
            os.fsync(file.fileno())


def zeros(terms: Terms) -> Callable[[], np.ndarray]:
    return lambda: np.zeros(terms.dimension)


class Federation:
    """All sites of a run and the server, met."""

    def __init__(self, folder: Path, terms: Terms) -> None:
        self.terms, self.folder = terms, folder
        self.sites = {one: self.open(one) for one, _ in terms.roster}
        self.introductions: dict[str, Introduction] = {
            one: site.introduce() for one, site in self.sites.items()
        }
        self.names = tuple(self.sites)

    def account(self, of: str) -> FileAccount:
        return FileAccount(self.folder / f"{of}.ledger")

    def open(self, of: str) -> Site:
        """A site as a new process would make it."""
        self.folder.mkdir(exist_ok=True)
        return Site(self.folder / of, of, identity(of), self.terms, self.account(of))

    def meet(self) -> Federation:
        for site in self.sites.values():
            site.meet(list(self.introductions.values()))
        return self

    def server(self) -> Coordinator:
        return Coordinator(self.terms, list(self.introductions.values()))

    def request(
        self, step: int = 1, attempt: int = 0, cohort: tuple[str, ...] = (), model: bytes = MODEL
    ) -> Request:
        """The attempt's number is the step's if none is given, as in a run where nothing is lost."""
        return Request(step, attempt or step, cohort or self.names, model)

    def words(self, answer: bytes) -> np.ndarray:
        return np.frombuffer(answer, self.terms.lattice.word).copy()

    def added(self, answers: Mapping[str, bytes]) -> np.ndarray:
        """The sum modulo 2^bits as signed steps, without the server's test for garbage."""
        total = sum(
            map(self.words, answers.values()), np.zeros(self.terms.dimension, self.terms.lattice.word)
        )
        return total.view(f"<i{self.terms.word_bits // 8}")


def looks_uniform(steps: np.ndarray, bits: int) -> bool:
    """Whether words spread over the whole range: their deviation is 2^bits / sqrt(12)."""
    return abs(steps.astype(np.float64).std() / (2.0**bits / 12**0.5) - 1) < 0.1
