"""The spending of a run as it goes: machine-readable JSON and one self-contained HTML page.

Cheap enough to be written after each round, and unsigned. The full report is `privacy.report.build_report`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from privacy.disk import write_durable
from privacy.report.plots import Plot, spending
from privacy.report.templates import render
from privacy.report.texts import ADJACENCY, UNIT

SCHEMA = "mmmed-epsilon-report/1"
ACCOUNTANT = f"privacy loss distribution (dp-accounting {version('dp-accounting')}), pessimistic rounding"
NOT_COVERED = (
    "evaluation metrics shown by a simulation (they are computed on held-out patients without noise)",
    "choices of hyperparameters made by looking at earlier runs on the same patients",
    "a site's size class, which its sampling rate shows, and the fact that it took part",
    "timing of replies, and anybody with access to a site's machine",
)


@dataclass(frozen=True)
class SiteRound:
    """What one site stated after one round: epsilon of all its steps so far, and the mechanism."""

    round: int
    epsilon: float
    steps: int


@dataclass(frozen=True)
class SiteSpending:
    """One site's course through the run."""

    site: str
    target_epsilon: float
    planned_epsilon: float
    delta: float
    noise_multiplier: float
    sampling_rate: float
    max_grad_norm: float
    rounds: tuple[SiteRound, ...]

    @property
    def epsilon(self) -> float:
        """Epsilon of everything charged in this run."""
        return max((r.epsilon for r in self.rounds), default=0.0)


@dataclass(frozen=True)
class EpsilonReport:
    """The whole report; `sites` is empty for a run without privacy."""

    run_id: str
    private: bool
    sites: tuple[SiteSpending, ...]

    def to_json(self) -> str:
        """The report as JSON text."""
        body = {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "private": self.private,
            "definition": {"unit": UNIT, "adjacency": ADJACENCY, "guarantee": "(epsilon, delta)-DP"},
            "mechanism": "Poisson-subsampled Gaussian (DP-SGD), noise added at each site before anything leaves it",
            "accountant": ACCOUNTANT,
            "not_covered": list(NOT_COVERED),
            "sites": [asdict(site) | {"epsilon": site.epsilon} for site in self.sites],
        }
        return json.dumps(body, indent=2, allow_nan=False) + "\n"

    def to_html(self) -> str:
        """The report as one HTML page without external parts."""
        return render(
            "epsilon.html",
            report=self,
            unit=UNIT,
            adjacency=ADJACENCY,
            accountant=ACCOUNTANT,
            not_covered=NOT_COVERED,
            plot=self._plot() if self.sites else None,
        )

    def _plot(self) -> Plot:
        return spending(
            [(site.site, [(r.round, r.epsilon) for r in site.rounds]) for site in self.sites],
            limit=max(site.target_epsilon for site in self.sites),
            rounds=1,
            planned=max(site.planned_epsilon for site in self.sites),
        )

    def write(self, folder: Path) -> None:
        """Write ``epsilon.json`` and ``epsilon.html``, each replaced whole."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("epsilon.json", self.to_json()), ("epsilon.html", self.to_html())):
            write_durable(folder / name, text.encode(), mode=0o666)
