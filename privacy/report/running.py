"""The epsilon report of a run: machine-readable JSON and one self-contained HTML page.

It states what was charged, by which accountant, under which definition, and what it does not cover. It is
evidence, not a certificate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

SCHEMA = "mmmed-epsilon-report/1"
ACCOUNTANT = f"privacy loss distribution (dp-accounting {version('dp-accounting')}), pessimistic rounding"
UNIT = "patient"
ADJACENCY = "add or remove one patient with all of the patient's records"
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
        environment = Environment(
            loader=PackageLoader("privacy", "templates"), autoescape=True, undefined=StrictUndefined
        )
        environment.filters["epsilon"] = shown
        return environment.get_template("epsilon.html").render(
            report=self,
            unit=UNIT,
            adjacency=ADJACENCY,
            accountant=ACCOUNTANT,
            not_covered=NOT_COVERED,
            chart=_Chart(self.sites) if self.sites else None,
        )

    def write(self, folder: Path) -> None:
        """Write ``epsilon.json`` and ``epsilon.html``, each replaced whole."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("epsilon.json", self.to_json()), ("epsilon.html", self.to_html())):
            temporary = folder / f".{name}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / name)


def shown(epsilon: float) -> str:
    """An epsilon with three digits, rounded up: what is printed is never below what was spent."""
    return f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"


class _Chart:
    """Epsilon against round, one stepped line a site, with each target as the limit."""

    width, height, left, bottom, top, right = 720, 320, 52, 40, 16, 120
    colours = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#65a30d", "#7c3aed")

    def __init__(self, sites: Sequence[SiteSpending]) -> None:
        self._sites = sites
        self._rounds = max((r.round for site in sites for r in site.rounds), default=1)
        self._top = 1.1 * max(max(site.target_epsilon, site.epsilon) for site in sites)

    def x(self, server_round: float) -> float:
        """Horizontal position of a round."""
        return round(self.left + (self.width - self.left - self.right) * server_round / self._rounds, 1)

    def y(self, epsilon: float) -> float:
        """Vertical position of an epsilon."""
        return round(
            self.height - self.bottom - (self.height - self.bottom - self.top) * epsilon / self._top, 1
        )

    @property
    def limits(self) -> list[float]:
        """Distinct targets."""
        return sorted({site.target_epsilon for site in self._sites})

    @property
    def epsilon_ticks(self) -> list[float]:
        """Round values up the axis: multiples of 1, 2 or 5 times a power of ten."""
        magnitude = 10.0 ** math.floor(math.log10(self._top / 5))
        step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= self._top / 5)
        return [step * i for i in range(int(self._top / step) + 1)]

    @property
    def round_ticks(self) -> list[int]:
        """At most about ten rounds along the axis."""
        stride = max(1, -(-self._rounds // 10))
        return list(range(0, self._rounds + 1, stride))

    @property
    def lines(self) -> list[dict[str, object]]:
        """One polyline a site; labels are spread so that they do not overlap."""
        drawn: list[dict[str, object]] = []
        taken: list[float] = []
        order = sorted(range(len(self._sites)), key=lambda i: -self._sites[i].epsilon)
        for i in order:
            site = self._sites[i]
            points, level = [f"{self.x(0)},{self.y(0)}"], 0.0
            for spent in site.rounds:
                points += [
                    f"{self.x(spent.round)},{self.y(level)}",
                    f"{self.x(spent.round)},{self.y(spent.epsilon)}",
                ]
                level = spent.epsilon
            label = self.y(level) + 4
            while any(abs(label - other) < 14 for other in taken):
                label += 14
            taken.append(label)
            drawn.append(
                {
                    "site": site.site,
                    "points": " ".join(points),
                    "colour": self.colours[i % len(self.colours)],
                    "label_y": label,
                }
            )
        return drawn
