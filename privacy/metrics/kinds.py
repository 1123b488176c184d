"""The kinds of private release of results: what each patient adds is bounded, and the sum gets Gaussian noise.

A kind says what the sum is of (`exact`), by how much one patient can move it (`sensitivity`), and what follows from
noised sums (`estimate`, post-processing).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch

from privacy.errors import NoiseError
from privacy.metrics import agreement, concordance, errors
from privacy.metrics.estimate import Estimate, estimate
from privacy.metrics.release import BINS, EQUAL_BINS, exact_tables, sensitivity
from privacy.metrics.scores import ScoreEstimate
from privacy.noise import PrivateRandom, noise_std

Shape = tuple[int, int, int]


class ReleaseKind(ABC):
    """A kind of release, of a public size.

    Attributes:
        name: as reports hold it.
        size: number of questions, numbers or intervals.
        sensitivity: the most, in Euclidean length, by which one patient changes the sum.
    """

    name: str

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    @abstractmethod
    def shapes(self) -> tuple[Shape, ...]:
        """Shapes of the sum: today's, then those of older software."""

    @property
    @abstractmethod
    def sensitivity(self) -> float: ...

    @abstractmethod
    def exact(self, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
        """The sum without noise, float64 of the shape. It never leaves the site.

        Args:
            score: (N, S) what is predicted of each record, in [0, 1].
            label: (N, S) what is true of it, NaN where that is not known.
            patient: (N,) whose record each is, 0 .. patients - 1.

        Raises:
            NoiseError: a score or a label is out of range.
        """

    @abstractmethod
    def estimate(self, tables: np.ndarray, std: float) -> Estimate | ScoreEstimate:
        """Read a sum over sites, each cell of which has noise of standard deviation `std`."""

    @abstractmethod
    def even(self, patients: float) -> np.ndarray:
        """The sum over so many patients who are spread evenly: what to expect before a record is read."""

    @property
    def shape(self) -> Shape:
        """Of what a site releases today."""
        return self.shapes[0]

    def private(
        self, score: np.ndarray, label: np.ndarray, patient: np.ndarray, noise_multiplier: float
    ) -> np.ndarray:
        """`exact` with noise: what may leave once the ledger is charged with `evaluation_event`.

        Args:
            score, label, patient: as of `exact`.
            noise_multiplier: z, noise standard deviation over the sensitivity, above 0.

        Raises:
            NoiseError: a score or label is out of range, or the noise cannot be drawn.
        """
        tables = torch.from_numpy(self.exact(score, label, patient))
        std = noise_std(noise_multiplier, self.sensitivity, tables.numel())
        PrivateRandom().add_gaussian_(tables, std)
        return tables.numpy()


class Tables(ReleaseKind):
    """Counts by answer and score of `size` questions with two answers: AUROC and calibration."""

    name = "tables"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return (self.size, 2, BINS), (self.size, 2, EQUAL_BINS)

    @property
    def sensitivity(self) -> float:
        return sensitivity(self.size)

    def exact(self, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
        return exact_tables(score, label, patient)

    def even(self, patients: float) -> np.ndarray:
        return np.full(self.shape, patients / (2 * BINS))

    def estimate(self, tables: np.ndarray, std: float) -> Estimate:
        return estimate(tables, std)


class Errors(ReleaseKind):
    """Sums of errors and values of one number between public bounds: mean absolute error and R2."""

    name = "errors"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return ((1, 1, len(errors.MOST)),)

    @property
    def sensitivity(self) -> float:
        return math.hypot(*errors.MOST)

    def exact(self, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
        return errors.exact_sums(score, label, patient)

    def even(self, patients: float) -> np.ndarray:
        return patients * np.array([1, 1 / 4, 1 / 8, 0, 1 / 12]).reshape(self.shape)

    def estimate(self, tables: np.ndarray, std: float) -> ScoreEstimate:
        return errors.estimate(tables, std)


class Concordance(ReleaseKind):
    """Counts by interval, event and risk of a time to an event in `size` intervals: the C-index."""

    name = "concordance"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return ((self.size + 1, 2, BINS),)

    @property
    def sensitivity(self) -> float:
        return 1.0

    def exact(self, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
        return concordance.exact_counts(score, label, patient, self.size)

    def even(self, patients: float) -> np.ndarray:
        return np.full(self.shape, patients / math.prod(self.shape))

    def estimate(self, tables: np.ndarray, std: float) -> ScoreEstimate:
        return concordance.estimate(tables, std)


class Agreement(ReleaseKind):
    """The sum of how far each record's answer agrees with the truth: its mean."""

    name = "agreement"

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return ((1, 1, len(agreement.MOST)),)

    @property
    def sensitivity(self) -> float:
        return math.hypot(*agreement.MOST)

    def exact(self, score: np.ndarray, label: np.ndarray, patient: np.ndarray) -> np.ndarray:
        return agreement.exact_sums(score, label, patient)

    def even(self, patients: float) -> np.ndarray:
        return patients * np.array([1.0, 0.0]).reshape(self.shape)

    def estimate(self, tables: np.ndarray, std: float) -> ScoreEstimate:
        return agreement.estimate(tables, std)


_KINDS: dict[str, type[ReleaseKind]] = {kind.name: kind for kind in (Tables, Errors, Concordance, Agreement)}


def release_kind(name: str, size: int) -> ReleaseKind:
    """The kind of this name.

    Raises:
        NoiseError: there is no such kind.
    """
    if name not in _KINDS:
        raise NoiseError(f"No kind of release is called {name!r}. There are: {', '.join(_KINDS)}.")
    return _KINDS[name](size)


def kind_of_sums(name: str, tables: np.ndarray) -> ReleaseKind:
    """The kind of this name whose sums have the shape of `tables`, whichever software released them.

    Raises:
        NoiseError: there is no such kind, or none of that shape.
    """
    sizes = {"concordance": len(tables) - 1, "errors": 1, "agreement": 1}
    kind = release_kind(name, sizes.get(name, len(tables)))
    # reports of any number of bins are read: their tables say what it was
    if name != Tables.name and tables.shape != kind.shape:
        raise NoiseError(f"Sums of the kind {name!r} have the shape {kind.shape}. Found {tables.shape}.")
    return kind
