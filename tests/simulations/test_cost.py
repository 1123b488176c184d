"""CPU time and energy of a run, against counters that the test itself turns."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mmmed.files import write_atomic
from simulations.cost import FILE, Energy, counted


def counter(folder: Path, number: int, microjoules: int, highest: int = 1_000_000) -> None:
    own = folder / f"intel-rapl:{number}"
    own.mkdir(exist_ok=True)
    write_atomic(own / "max_energy_range_uj", f"{highest}\n", durable=False)
    write_atomic(own / "energy_uj", f"{microjoules}\n", durable=False)


def test_energy_is_the_sum_of_all_packages_over_the_counters_end(tmp_path: Path) -> None:
    counter(tmp_path, 0, 900_000)
    counter(tmp_path, 1, 100)
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of package 0, which counts it already
    with Energy(tmp_path) as energy:
        counter(tmp_path, 0, 50_000)  # over its end
        counter(tmp_path, 1, 30_100)
    assert energy.joules == pytest.approx(0.15 + 0.03)


def test_a_counter_is_read_meanwhile_since_it_may_begin_anew_several_times(tmp_path: Path) -> None:
    counter(tmp_path, 0, 0)
    with Energy(tmp_path, every=0.005) as energy:
        for value, total in ((600_000, 0.6), (200_000, 1.2), (800_000, 1.8), (400_000, 2.4)):
            counter(tmp_path, 0, value)
            while energy.joules != pytest.approx(total):
                assert energy.joules is not None and energy.joules < total + 0.1
                time.sleep(0.005)
    assert energy.joules == pytest.approx(2.4)


def test_energy_that_cannot_be_read_is_not_made_up(tmp_path: Path) -> None:
    with Energy(tmp_path) as energy:
        pass
    assert energy.joules is None
    counter(tmp_path, 0, 5)
    with Energy(tmp_path) as energy:
        (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy.joules is None


def test_costs_of_the_parts_of_a_run_add_up_and_a_cut_is_seen(tmp_path: Path) -> None:
    for _ in range(2):
        with counted(tmp_path, whole=True):
            until = time.process_time() + 0.05
            while time.process_time() < until:
                pass
    told = json.loads((tmp_path / FILE).read_text())
    assert told["cpu_seconds"] >= 0.08 and told["wall_seconds"] >= 0.08  # os.times counts hundredths
    assert (told["starts"], told["ends"]) == (2, 2)
    with pytest.raises(KeyboardInterrupt), counted(tmp_path, whole=True):
        raise KeyboardInterrupt
    told = json.loads((tmp_path / FILE).read_text())
    assert (told["starts"], told["ends"]) == (3, 2)


def test_work_that_others_do_is_not_counted_as_all(tmp_path: Path) -> None:
    with counted(tmp_path, whole=False):
        pass
    assert not (tmp_path / FILE).exists()
