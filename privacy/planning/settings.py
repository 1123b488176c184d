"""Compare ways to spend a budget before any data is touched: sampling rate, steps, records of a patient, noise.

For equal epsilon, what matters to learning is the signal against the noise in the sum of all updates. Clipped
gradients that all agree move the model by T q N C over T steps at sampling rate q of N patients, and their noise by
sigma C sqrt(T d) in d coordinates. A patient's records do not quite agree: their mean over k records, clipped as a
whole, has a share 1 / sqrt(1 + spread / k) of its length in common with the others', where `spread` is the squared
length of what is a record's own over that of what all share. Records of a patient cost compute and no budget.

The module ranks settings by that signal over the noise of one coordinate: comparable between settings, and an
upper bound on what training will see, not a forecast.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from privacy.accounting import DpSgdEvent, adaptive_epsilon, epsilon, near_noise_multiplier
from privacy.errors import AccountingError
from privacy.ledger.admission import ORDERS
from privacy.planning.mechanism import check_delta

RATES, STEPS = (0.02, 0.1, 0.25, 0.5, 1.0), (10, 30, 100, 300)
FEW_RATES, FEW_STEPS = (0.1, 0.5, 1.0), (100,)  # what a screen holds, in a few seconds
RECORDS = (1, 2, 4)
SPREAD = 9.0  # what is a record's own is three times as long as what all share
_FINEST, _NOISIEST = 1e-4, 1000.0


@dataclass(frozen=True)
class Setting:
    """One way to spend the budget.

    Attributes:
        sampling_rate, steps, noise_multiplier: the mechanism of the whole run.
        records_per_patient: records of a patient in a step, at most.
        epsilon: what it costs (PLD), never above the budget.
        ledger_epsilon: where a ledger's filter stands after it: an empty ledger's, or that of a site (`with_ledger`).
        signal_to_noise: of the whole run, for one coordinate: sqrt(T) q N / (sigma sqrt(1 + spread / k)).
        passes: expected passes over the patients' records, q T k: what it costs in compute.
        admitted: whether the site's ledger would admit it; None without a ledger.
    """

    sampling_rate: float
    steps: int
    records_per_patient: int
    noise_multiplier: float
    epsilon: float
    ledger_epsilon: float
    signal_to_noise: float
    passes: float
    admitted: bool | None = None

    @property
    def event(self) -> DpSgdEvent:
        """The mechanism of the whole run, as an accountant takes it."""
        return DpSgdEvent(self.noise_multiplier, self.sampling_rate, self.steps)

    @property
    def largest_dimension(self) -> int:
        """Parameters for which noise and signal of the whole run are equally long: (signal_to_noise)^2."""
        return int(self.signal_to_noise**2)

    def update_signal_to_noise(self, steps: int, parameters: int) -> float:
        """Length of the signal over length of the noise in an update of `steps` steps and `parameters` parameters."""
        return self.signal_to_noise * math.sqrt(steps / self.steps / parameters)


def setting(event: DpSgdEvent, delta: float, patients: int, records: int = 1, spread: float = 0.0) -> Setting:
    """Describe one mechanism for a site.

    Args:
        event: noise multiplier, sampling rate and steps of the whole run.
        delta: at which epsilon is computed.
        patients: N, how many patients the site has.
        records: k, records of a patient in a step, at most.
        spread: squared length of what is a record's own over that of what all share; 0 if all records agree.
    """
    signal = math.sqrt(event.steps) * event.sampling_rate * patients / event.noise_multiplier
    whole = Setting(
        event.sampling_rate,
        event.steps,
        1,
        event.noise_multiplier,
        epsilon([event], delta),
        adaptive_epsilon([event], delta, ORDERS),
        signal,
        event.sampling_rate * event.steps,
    )
    return with_records(whole, records, spread)


def agreeing(records: int, spread: float) -> float:
    """The share of a patient's clipped gradient, in length, that all have in common: 1 / sqrt(1 + spread / records)."""
    return 1 / math.sqrt(1 + spread / records)


def with_records(whole: Setting, records: int, spread: float) -> Setting:
    """`whole`, of one record a patient and records that all agree, with so many `records` of such a `spread`."""
    return replace(
        whole,
        records_per_patient=records,
        signal_to_noise=whole.signal_to_noise * agreeing(records, spread),
        passes=whole.passes * records,
    )


def alternatives(
    *,
    patients: int,
    target_epsilon: float,
    delta: float,
    rates: Sequence[float] = RATES,
    steps: Sequence[int] = STEPS,
    records: Sequence[int] = RECORDS,
    spread: float = SPREAD,
) -> list[Setting]:
    """Settings over a grid of rates, steps and records at the same budget, best signal-to-noise first.

    Of settings that are equal to three digits the one with the fewest passes comes first. Settings that no noise
    multiplier makes private enough are left out. Noise is solved to spend 98 % of the budget or more, never above it.

    Args:
        patients: N, how many patients the site has.
        target_epsilon: of every setting, at most.
        delta: of the budget, below 1 / patients.
        rates: sampling rates to try, in (0, 1].
        steps: steps of the whole run to try.
        records: records of a patient in a step to try.
        spread: squared length of what is a record's own over that of what all share.

    Raises:
        PlanError: delta is not below 1 / patients.
    """
    check_delta(delta, patients)
    found = []
    for rate in rates:
        for count in steps:
            try:
                noise = near_noise_multiplier(target_epsilon, delta, rate, count)
            except AccountingError:
                continue
            one = setting(DpSgdEvent(noise, rate, count), delta, patients)
            found += [with_records(one, each, spread) for each in records]
    return sorted(
        found, key=lambda one: (-float(f"{one.signal_to_noise:.3g}"), one.passes)
    )  # equal: the cheaper


def with_ledger(
    settings: Sequence[Setting],
    admits: Callable[[DpSgdEvent], bool],
    stands: Callable[[DpSgdEvent], float],
) -> list[Setting]:
    """The settings, each with whether a ledger admits it, and where its filter would then stand."""
    events = dict.fromkeys(one.event for one in settings)
    answers = {event: (admits(event), stands(event)) for event in events}
    return [
        replace(one, admitted=answers[one.event][0], ledger_epsilon=answers[one.event][1]) for one in settings
    ]


def least_admitted_noise(rate: float, steps: int, admits: Callable[[DpSgdEvent], bool]) -> float | None:
    """The least noise multiplier, to 1 %, with which a ledger admits `steps` at `rate`; None if none up to 1000."""
    low, high = _FINEST, _NOISIEST
    if not admits(DpSgdEvent(high, rate, steps)):
        return None
    while high > 1.01 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if admits(DpSgdEvent(middle, rate, steps)) else (middle, high)
    return high


def to_csv(settings: Sequence[Setting]) -> str:
    """The settings as CSV: a header, then one row a setting."""
    text = io.StringIO()
    rows = [asdict(one) | {"largest_dimension": one.largest_dimension} for one in settings]
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
