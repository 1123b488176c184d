"""The comparison of runs as one HTML page, with nothing to fetch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from privacy.accounting import shown
from privacy.report.plots import TONES, Axis, Plot
from simulations.compare import Difference, FinishedRun, Setting, differences, settings_of
from simulations.pictures import around, courses, render

_ENOUGH = 5  # seeds
_WIDEST = 17  # characters that fit beside a plot
_SHOWN = 3  # scores in the table of differences: within sites, pooled, of the worst site
_BY_SEED = (
    "Each seed splits the same patients anew, so that seeds are no independent repetitions: the variance of a mean is "
    "taken 1/n + test/train of that of the seeds (Nadeau and Bengio 2003)."
)
_BY_FOLD = (
    "All seeds hold out the same patients: intervals and tests are about initialisations, not about patients."
)


def compare_page(runs: Sequence[FinishedRun]) -> str:
    """The page of runs that can be compared, HTML.

    Raises:
        RunError: two runs are of one setting and one seed.
    """
    settings = settings_of(runs)
    titles = list(dict.fromkeys(title for run in runs for title in run.values))
    same_split = bool(runs[0].config.data.fold)
    return render(
        "compare.html",
        title="Runs compared",
        lead=_lead(settings, runs),
        few=min(len(one.runs) for one in settings) < _ENOUGH,
        settings=settings,
        titles=titles,
        best={title: _best(settings, title, runs[0]) for title in titles},
        tones=TONES,
        intervals=_BY_FOLD if same_split else _BY_SEED,
        means=_means(settings, titles[0]),
        compared=[(title, _rows(settings, title)) for title in titles[:_SHOWN]] if len(settings) > 1 else [],
        test=_test(len(settings) - 1, same_split),
        curves=_curves(settings, runs[0]),
        costs=[_cost(one) for one in settings],
        keys=list(settings[0].differs),
    )


def _lead(settings: Sequence[Setting], runs: Sequence[FinishedRun]) -> str:
    seeds = sorted({run.seed for run in runs})
    private = sum(run.config.privacy.enabled for run in runs)
    kinds = {0: "without privacy", len(runs): "private"}.get(private, f"{private} of them private")
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {len(settings)} setting{'s' * (len(settings) > 1)}, seeds "
        f"{', '.join(map(str, seeds))}, {kinds}. {runs[0].score.title} on held-out patients"
        f"{'' if runs[0].score.higher else ', lower is better'}; data: {runs[0].config.data.source}."
    )


def _best(settings: Sequence[Setting], title: str, run: FinishedRun) -> int:
    """The number of the setting with the best mean; 0 where the score is another one, of which the page cannot tell."""
    means = {one.number: one.estimate(title).mean for one in settings}
    known = {number: mean for number, mean in means.items() if not math.isnan(mean)}
    if len(settings) < 2 or not known or not title.startswith(run.score.title):
        return 0
    return (max if run.score.higher else min)(known, key=lambda number: known[number])


def _means(settings: Sequence[Setting], title: str) -> Plot:
    found = [(one.number, one.estimate(title)) for one in settings]
    known = [(number, one) for number, one in found if not math.isnan(one.mean)]
    values = [
        value for _, one in known for value in (*one.values, one.low, one.high) if not math.isnan(value)
    ]
    return Plot(
        title=f"{title} of each setting: seeds, mean and interval",
        x=Axis("setting", 0, len(settings) + 1, whole=True),
        y=around(values, title),
        lines=[],
        marks=[
            (number, one.mean, f"{number}: {one.mean:.3f}" if len(known) <= 10 else "")
            for number, one in known
        ],
        points=[(n, value, f"setting {n}: {value:.3f}") for n, one in known for value in one.values],
        errors=[(number, one.low, one.high) for number, one in known if not math.isnan(one.low)],
    )


def _rows(settings: Sequence[Setting], title: str) -> list[dict[str, str]]:
    return [
        {
            "setting": f"{one.number}. {one.name}",
            "pairs": str(len(found.estimate.values)),
            "difference": _signed(found),
            "p": _p(found.p),
            "corrected": _p(found.corrected),
        }
        for one, found in zip(settings[1:], differences(settings, title), strict=True)
    ]


def _signed(found: Difference) -> str:
    one = found.estimate
    if math.isnan(one.mean):
        return "-"
    return f"{one.mean:+.3f}" + ("" if math.isnan(one.low) else f" [{one.low:+.3f}, {one.high:+.3f}]")


def _p(value: float) -> str:
    return "-" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _test(compared: int, same_split: bool) -> str:
    return (
        "Paired t-test, two-sided, over the seeds that both settings have, with the same variance as the intervals. "
        f"{_BY_FOLD if same_split else _BY_SEED} p is uncorrected; beside it the same corrected for the {compared} "
        f"comparison{'s' * (compared > 1)} of a score by Holm's method, not for the scores nor for settings that were "
        "tried and are not shown here."
    )


def _curves(settings: Sequence[Setting], run: FinishedRun) -> Plot | None:
    names = {one.number: f"{one.number}. {one.name}" for one in settings}
    if max(map(len, names.values())) > _WIDEST:
        names = {number: f"setting {number}" for number in names}
    lines = {names[one.number]: one.curve() for one in settings}
    if not any(lines.values()):
        return None
    return courses(lines, f"mean site {run.score.title}", "Mean of the sites' scores against the round")


def _cost(one: Setting) -> dict[str, str]:
    found = one.costs()
    return {
        "name": f"{one.number}. {one.name}",
        "epsilon": "no privacy" if math.isnan(found["epsilon"]) else shown(found["epsilon"]),
        "seconds": f"{found['seconds']:.1f}",
        "up": f"{found['MB up']:.2f}",
        "down": f"{found['MB down']:.2f}",
    }
