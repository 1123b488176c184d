"""What all sites of a secure sum agree on. Its digest is under every site's signature and in every mask's key."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from privacy.accounting import DpSgdEvent
from privacy.errors import PolicyRefusal, SecureSumRefusal
from privacy.secure_sum.lattice import Lattice, step_of

_LABEL = b"mmmed secure sum: terms 1\0"
_LAYOUT_LABEL = b"mmmed secure sum: layout 1\0"
_MOST_BYTES = 1 << 22
_MOST_SITES = 10_000
_NAME_LENGTH = 100


@dataclass(frozen=True)
class Terms:
    """The public agreement of a run, the same bytes at every site.

    Args:
        run: the run's name; never used for two runs.
        roster: (name, Ed25519 public key in 64 hexadecimal digits) of every site that may take part, by name.
        layout: SHA-256, hexadecimal, of what the coordinates mean: parameter names and shapes.
        dimension: coordinates of the vector.
        clip: clipping norm C of a patient.
        noise_multiplier: sigma: the sum holds N(0, (sigma C)^2) if `honest` sites of the cohort are.
        honest: h, sites that are relied upon to add their share.
        colluders: c, sites that may be with the server.
        least_cohort: a site answers no smaller one; at least h + c.
        sampling_rate: q, in (0, 1]: each patient takes part in a step with this probability.
        steps: planned steps.
        repeats: void attempts that the plan has room for: at most steps + repeats answers are ever given.
        lattice_step: s, a power of two, usually about 2^-20 C.
        word_bits: 64, or 32 where the network is what costs.
        release: "secure-steps": each step releases one masked sum.

    Raises:
        SecureSumRefusal: a value is of another type or out of its range, or the words have too little room.
    """

    run: str
    roster: tuple[tuple[str, str], ...]
    layout: str
    dimension: int
    clip: float
    noise_multiplier: float
    honest: int
    colluders: int
    least_cohort: int
    sampling_rate: float
    steps: int
    repeats: int
    lattice_step: float
    word_bits: int = 64
    release: str = "secure-steps"

    def __post_init__(self) -> None:
        self._check_roster()
        sites = len(self.roster)
        _digits("layout", self.layout)
        _name("run", self.run)
        if self.release != "secure-steps":
            raise SecureSumRefusal(f'release: expected "secure-steps". Found {self.release!r:.120}.')
        if self.word_bits not in (32, 64):
            raise SecureSumRefusal(f"word_bits: expected 32 or 64. Found {self.word_bits!r:.120}.")
        _whole("dimension", self.dimension, 1, 1 << 34)
        _whole("honest", self.honest, 1, sites)
        _whole("colluders", self.colluders, 0, sites - self.honest)
        _whole("least_cohort", self.least_cohort, max(2, self.honest + self.colluders), sites)
        _whole("steps", self.steps, 1, 1 << 32)
        _whole("repeats", self.repeats, 0, 1 << 32)
        for name, most in (
            ("clip", 1e30),
            ("noise_multiplier", 1e6),
            ("sampling_rate", 1.0),
            ("lattice_step", 1e30),
        ):
            _real(name, getattr(self, name), most)
        _ = self.lattice  # has its own conditions

    def _check_roster(self) -> None:
        roster = self.roster
        pairs = isinstance(roster, tuple) and all(isinstance(one, tuple) and len(one) == 2 for one in roster)
        if not pairs or not 2 <= len(roster) <= _MOST_SITES:
            raise SecureSumRefusal(
                f"roster: expected 2 to {_MOST_SITES} pairs of a site's name and its public key."
            )
        for name, key in roster:
            _name("roster", name)
            _digits(f"roster: the key of {name!r}", key)
        names, keys = [name for name, _ in roster], {key for _, key in roster}
        if names != sorted(set(names)):
            raise SecureSumRefusal("roster: expected different names in order.")
        if len(keys) != len(names):
            raise SecureSumRefusal("roster: one key stands under two names. Every site has its own.")

    @classmethod
    def planned(
        cls,
        run: str,
        roster: Mapping[str, str],
        shapes: Mapping[str, Sequence[int]],
        *,
        clip: float,
        noise_multiplier: float,
        sampling_rate: float,
        steps: int,
        repeats: int,
        honest: int,
        least_cohort: int,
    ) -> Terms:
        """The terms that follow from a run's public settings, the same at the server and at every site.

        All sites of the smallest cohort that are not relied upon may collude.

        Args:
            run: the run's name.
            roster: name -> Ed25519 public key, 64 hexadecimal digits.
            shapes: the shape of each summed tensor by name, in the order in which they are laid out.
            clip: the most by which a patient moves the sum of a site.
            noise_multiplier, sampling_rate, steps, repeats, honest, least_cohort: as the attributes.

        Raises:
            SecureSumRefusal: as the class.
        """
        layout = json.dumps([[name, list(shape)] for name, shape in shapes.items()], separators=(",", ":"))
        return cls(
            run=run,
            roster=tuple(sorted(roster.items())),
            layout=hashlib.sha256(_LAYOUT_LABEL + layout.encode()).hexdigest(),
            dimension=sum(math.prod(shape) for shape in shapes.values()),
            clip=clip,
            noise_multiplier=noise_multiplier,
            honest=honest,
            colluders=max(0, least_cohort - honest),
            least_cohort=least_cohort,
            sampling_rate=sampling_rate,
            steps=steps,
            repeats=repeats,
            lattice_step=step_of(clip),
        )

    @property
    def event(self) -> DpSgdEvent:
        """What a patient of any site is charged at most: all answers of the plan, with the noise of h sites."""
        return DpSgdEvent(self.noise_multiplier, self.sampling_rate, self.most_answers)

    @cached_property
    def lattice(self) -> Lattice:
        """The arithmetic (`Lattice`) that follows from these terms."""
        return Lattice(
            step=self.lattice_step,
            bits=self.word_bits,
            sites=len(self.roster),
            dimension=self.dimension,
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            honest=self.honest,
        )

    @property
    def most_answers(self) -> int:
        """The number of releases that the plan must cover: every attempt may be seen, even one that gives no sum."""
        return self.steps + self.repeats

    @cached_property
    def content(self) -> bytes:
        """Canonical bytes: JSON in ASCII, sorted keys, no spaces; a float is its shortest exact decimal."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
            "ascii"
        )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes, 32 bytes."""
        return hashlib.sha256(_LABEL + self.content).digest()

    @classmethod
    def parse(cls, content: bytes) -> Terms:
        """Terms of their canonical bytes, as another party sent them.

        Raises:
            SecureSumRefusal: they are not canonical, or a value is not as it should be.
        """
        if len(content) > _MOST_BYTES:
            raise SecureSumRefusal(f"Terms of {len(content)} bytes: expected at most {_MOST_BYTES}.")
        try:
            values: dict[str, Any] = json.loads(content)
            values["roster"] = tuple(tuple(one) for one in values["roster"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise SecureSumRefusal("The terms are not the canonical JSON of a run's terms.") from None
        if set(values) != {field.name for field in fields(cls)}:
            raise SecureSumRefusal("The terms have other fields than this version of mmmed knows.")
        terms = cls(**values)
        if terms.content != content:
            raise SecureSumRefusal("The terms are not in canonical form.")
        return terms


@dataclass(frozen=True)
class SharedNoise:
    """How a run shares its noise, in numbers; `Terms` and `PeerRules` say what each means."""

    honest: int
    colluders: int
    least_cohort: int
    repeats: int


@dataclass(frozen=True)
class PeerRules:
    """What a site's privacy officer allows: with whom, and how far their noise is relied upon.

    Args:
        roster: name -> Ed25519 public key (64 hexadecimal digits) of every peer, this site among them.
        honest: the most sites that may be relied upon, h.
        colluders: the fewest colluders that must be covered.
        least_cohort: the smallest cohort.
        repeats: the most void attempts that a plan may have room for.
    """

    roster: Mapping[str, str]
    honest: int
    colluders: int
    least_cohort: int
    repeats: int

    def widened_by(self, new: PeerRules) -> bool:
        """Whether `new` allows something that these rules do not."""
        return (
            any(self.roster.get(name) != key for name, key in new.roster.items())
            or new.honest > self.honest
            or new.colluders < self.colluders
            or new.least_cohort < self.least_cohort
            or new.repeats > self.repeats
        )

    def check(self, terms: Terms) -> None:
        """Raise PolicyRefusal where `terms` go beyond these rules."""
        for name, key in terms.roster:
            if self.roster.get(name) != key:
                known = "another key is known for it" if name in self.roster else "it is not known"
                raise PolicyRefusal(
                    "peers.keys",
                    f"the run counts on {name!r:.120} and {known}. The officer signs the keys of all peers.",
                )
        self.check_counts(SharedNoise(terms.honest, terms.colluders, terms.least_cohort, terms.repeats))

    def check_counts(self, asked: SharedNoise) -> None:
        """Raise PolicyRefusal where a run's numbers go beyond these rules, whoever takes part."""
        for rule, found, most in (
            ("honest", asked.honest, self.honest),
            ("repeats", asked.repeats, self.repeats),
        ):
            if found > most:
                raise PolicyRefusal(f"peers.{rule}", f"the run asks for {found}. At most {most} is allowed.")
        for rule, found, least in (
            ("colluders", asked.colluders, self.colluders),
            ("least_cohort", asked.least_cohort, self.least_cohort),
        ):
            if found < least:
                raise PolicyRefusal(
                    f"peers.{rule}", f"the run asks for {found}. At least {least} is required."
                )


def _name(field: str, value: object) -> None:
    if not (isinstance(value, str) and 0 < len(value) <= _NAME_LENGTH and value.isprintable()):
        raise SecureSumRefusal(
            f"{field}: expected a name of 1 to {_NAME_LENGTH} printable characters. Found {value!r:.120}."
        )


def _digits(name: str, value: object) -> None:
    if not (isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")):
        raise SecureSumRefusal(f"{name}: expected 64 lower-case hexadecimal digits. Found {value!r:.120}.")


def _whole(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise SecureSumRefusal(
            f"{name}: expected a whole number from {least} to {most}. Found {value!r:.120}."
        )


def _real(name: str, value: object, most: float) -> None:
    if type(value) is not float or not 1e-30 <= value <= most:
        raise SecureSumRefusal(
            f"{name}: expected a decimal number from 1e-30 to {most:g}. Found {value!r:.120}."
        )
