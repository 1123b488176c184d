from __future__ import annotations

import csv
import io
import math

import pytest

from privacy.accounting import DpSgdEvent, adaptive_epsilon, epsilon
from privacy.errors import PlanError
from privacy.ledger.admission import ORDERS
from privacy.planning import plan_training
from privacy.planning.settings import alternatives, least_admitted_noise, setting, to_csv, with_ledger


def test_alternatives_keep_the_budget_and_are_ranked() -> None:
    found = alternatives(patients=400, target_epsilon=4.0, delta=1e-4, rates=(0.1, 0.5, 1.0), steps=(10, 100))
    assert len(found) == 6 * 3
    for one in found:
        spent = epsilon([DpSgdEvent(one.noise_multiplier, one.sampling_rate, one.steps)], 1e-4)
        assert one.epsilon == pytest.approx(spent) and 3.8 < spent <= 4.0
        assert one.passes == pytest.approx(one.sampling_rate * one.steps * one.records_per_patient)
        expected = math.sqrt(one.steps) * one.sampling_rate * 400 / one.noise_multiplier
        expected /= math.sqrt(1 + 9 / one.records_per_patient)
        assert one.signal_to_noise == pytest.approx(expected)
    ranks = [(-float(f"{one.signal_to_noise:.3g}"), one.passes) for one in found]
    assert ranks == sorted(ranks)


def test_what_is_asked_is_the_plan_that_a_site_would_sign() -> None:
    plan = plan_training(patients=300, batch_size=64, local_epochs=2, rounds=3, target_epsilon=8, delta=1e-3)
    worth = setting(plan.event, 1e-3, 300)
    assert plan.sampling_rate == 0.25 and plan.steps_per_round == 8
    assert worth.event == plan.event and worth.steps == 24 and worth.epsilon <= 8
    assert worth.ledger_epsilon == adaptive_epsilon([plan.event], 1e-3, ORDERS) > worth.epsilon
    assert worth.largest_dimension == int(worth.signal_to_noise**2)
    whole = worth.update_signal_to_noise(24, worth.largest_dimension)
    assert whole == pytest.approx(1, rel=1e-2)  # by definition
    assert worth.update_signal_to_noise(8, worth.largest_dimension) == pytest.approx(whole / math.sqrt(3))


def test_more_patients_or_budget_help_and_more_noise_hurts() -> None:
    event = DpSgdEvent(1.0, 0.1, 100)
    assert setting(event, 1e-5, 200).signal_to_noise == pytest.approx(
        2 * setting(event, 1e-5, 100).signal_to_noise
    )
    noisier = DpSgdEvent(2.0, 0.1, 100)
    assert setting(noisier, 1e-5, 100).epsilon < setting(event, 1e-5, 100).epsilon
    with pytest.raises(PlanError, match="1 / patients"):
        alternatives(patients=100, target_epsilon=1, delta=0.01)


def test_more_records_of_a_patient_cost_no_budget_and_help_less_and_less() -> None:
    event = DpSgdEvent(1.0, 0.1, 100)
    one, two, many = (setting(event, 1e-5, 100, records, spread=9.0) for records in (1, 2, 10_000))
    assert one.epsilon == two.epsilon == many.epsilon
    assert one.signal_to_noise < two.signal_to_noise < math.sqrt(2) * one.signal_to_noise
    assert many.signal_to_noise == pytest.approx(setting(event, 1e-5, 100).signal_to_noise, rel=1e-3)


def test_the_least_noise_that_a_ledger_admits_is_found() -> None:
    found = least_admitted_noise(0.1, 10, lambda event: event.noise_multiplier >= 3.3)
    assert found is not None and 3.3 <= found <= 3.3 * 1.011
    assert least_admitted_noise(0.1, 10, lambda event: False) is None


def test_the_table_has_every_setting() -> None:
    found = alternatives(patients=400, target_epsilon=4.0, delta=1e-4, rates=(0.5,), steps=(10,))
    rows = list(
        csv.DictReader(io.StringIO(to_csv(with_ledger(found, lambda event: True, lambda event: 5.0))))
    )
    assert len(rows) == 3 and {(row["admitted"], row["ledger_epsilon"]) for row in rows} == {("True", "5.0")}
    assert [float(row["noise_multiplier"]) for row in rows] == [one.noise_multiplier for one in found]
