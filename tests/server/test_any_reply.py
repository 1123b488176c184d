"""Whatever a site answers, the server app survives it: the run goes on, and can be resumed, with the others."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server.events import Event, RoundFinished
from server.privacy_report import RunReport
from server.run_folder import RunFolder, finished_rounds
from tests import standin
from tests.server.test_loop import config, run, same

HONEST = {"weight": 1.0, "loss": 0.5}
NUMBERS = st.one_of(
    st.floats(), st.integers(), st.sampled_from([10**400, -(10**400), 1e308, 1e300, 5e-324, -0.0])
)
STATED = [
    "epsilon",
    "planned_epsilon",
    "delta",
    "noise_multiplier",
    "sampling_rate",
    "steps",
    "statement",
    "receipt",
]
NAMES = st.sampled_from(["name", "results", *(f"privacy.{one}" for one in STATED)]) | st.text(max_size=120)
TEXTS = st.sampled_from(["site-0", "site-2", "{}", "[" * 3000, '{"schema": []}', "9" * 5000]) | st.text()
TABLES = st.builds(
    lambda shape, value: Array(np.full(shape, value)),
    st.sampled_from([(1, 2, 20), (2, 2, 20), (1, 2, 10), (0, 2, 20), (40,), ()]),
    st.floats() | st.sampled_from([1e300, 1e9, -1e9, 0.0, 1e-300]),
)
RAW = st.builds(
    lambda dtype, shape, kind, data: Array(dtype, shape, kind, data),
    st.sampled_from(["float64", "object", "uint8", ""]),
    st.sampled_from([(1, 2, 20), (10**9, 10**9), (-1,)]),
    st.sampled_from(["numpy.ndarray", "safetensors", ""]),
    st.binary(max_size=200),
)
PARTS: dict[str, Any] = {
    "site": st.dictionaries(NAMES, NUMBERS | st.booleans() | TEXTS | st.binary(), max_size=8).flatmap(
        lambda fields: st.sampled_from([{}, {"name": "site-2"}]).map(
            lambda named: ConfigRecord({**fields, **named})
        )
    ),
    "metrics": st.dictionaries(
        st.text(max_size=120), NUMBERS | st.lists(st.floats(), max_size=3), max_size=8
    ).flatmap(
        lambda fields: st.sampled_from([{}, HONEST]).map(lambda honest: MetricRecord({**fields, **honest}))
    ),
    "tables": st.builds(lambda one: ArrayRecord({"tables": one}), TABLES | RAW),
    "arrays": st.builds(lambda one: ArrayRecord({"update": one}), TABLES | RAW),
}
RECORDS = st.fixed_dictionaries({}, optional=PARTS)


@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(records=st.lists(RECORDS, min_size=12, max_size=12))
def test_the_run_goes_on_and_can_be_resumed(records: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "run"
        standin.ARBITRARY = {number: RecordDict(parts) for number, parts in enumerate(records, start=2)}
        hostile = [
            {"behaviour": "arbitrary", "phase": "train" if n % 2 else "evaluate"} for n in standin.ARBITRARY
        ]

        def stop(event: Event) -> None:
            if isinstance(event, RoundFinished) and event.round == 1:
                raise KeyboardInterrupt

        try:
            run(path, [{}, {}, *hostile], config(rounds=2), stop)
        except KeyboardInterrupt:
            with RunFolder.open(path) as folder:
                RunReport(folder).write()
        final, rounds = run(path, [{}, {}], config(rounds=2))  # the honest sites alone
        assert [one["round"] for one in rounds] == [1, 2] and all(one["changed"] for one in rounds)
        assert {key: value.shape for key, value in final.items()} == standin.SHAPES
        assert (path / "rounds.jsonl").stat().st_size < 50_000
        assert json.dumps(finished_rounds(path), allow_nan=False)


def test_a_run_folder_with_what_an_earlier_version_took_opens_and_says_what_it_leaves_out(
    tmp_path: Path, caplog: Any
) -> None:
    run(tmp_path / "run", [{}, {}], config(rounds=1))
    log = tmp_path / "run" / "rounds.jsonl"
    record = json.loads(log.read_text())
    record["train"][0]["released"] = {"privacy.epsilon": "\x1b[2Jnone", "privacy.steps": 3}
    record["evaluate"][1]["tables"] = [[[1e300]]]
    log.write_text(json.dumps(record) + "\n")
    with RunFolder.open(tmp_path / "run") as folder:
        (kept,) = folder.rounds()
    assert kept["train"][0]["released"] == {} and kept["train"][1]["released"]
    assert "tables" not in kept["evaluate"][1] and finished_rounds(tmp_path / "run") == [kept]
    assert "line 1: left out" in caplog.text and "site-0, site-1" in caplog.text
    same(*[run(tmp_path / "run", [{}, {}], config(rounds=1))[0]] * 2)
