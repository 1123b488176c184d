"""Noised counts of several sites are pooled, and only those that fit the run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from mmmed.tasks import Release
from privacy.metrics import BINS, estimate
from server.pooled_evaluation import pooled_results
from server.replies import Answer, read_reply

TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID

TWO = Release("tables")


def answer(site: str, tables: np.ndarray | None, noise: float = 2.0) -> Answer:
    return Answer(1, 0.0, site, released={"privacy.noise_multiplier": noise}, histograms=tables)


@pytest.fixture
def tables() -> np.ndarray:
    rng = np.random.default_rng(0)
    rising = np.linspace(1, 40, BINS)
    return np.stack([rising[::-1], rising])[None] + rng.normal(0, 2, (1, 2, BINS))


def test_sites_are_pooled_and_their_noise_adds_up(tables: np.ndarray) -> None:
    pooled = pooled_results([answer("a", tables, 2.0), answer("b", tables, 1.0), answer("c", None)], TWO)
    assert pooled is not None and pooled["sites"] == ["a", "b"]
    expected = estimate(2 * tables, math.sqrt(5.0))
    assert pooled["auroc"] == pytest.approx(expected.auroc) and 0.8 < pooled["auroc"] < 1
    assert pooled["noise_error"] == pytest.approx(expected.noise_error)


def test_what_does_not_fit_the_run_is_left_out(tables: np.ndarray) -> None:
    bad = [
        answer("few", tables[:, :, :5]),
        answer("older software", tables[:, :, :10]),
        answer("silent", tables, 0.0),
        Answer(1, 0.0, "unstated", histograms=tables),
        answer("none", None),
    ]
    assert pooled_results(bad, TWO) is None
    assert pooled_results([], TWO) is None
    pooled = pooled_results([*bad, answer("good", tables)], TWO)
    assert pooled is not None and pooled["sites"] == ["good"]
    assert pooled_results([answer("a", tables / 10)], TWO)["refused"] == "few-patients"  # type: ignore[index]


@pytest.mark.parametrize(
    ("sent", "refused"),
    [
        (np.zeros((1, 2, 20)), None),
        (np.zeros((1, 2, 10)), "shape-differs"),
        (np.full((1, 2, 20), 1e300), "over-bounds"),
        (np.zeros((2, 10)), "shape-differs"),
        (np.zeros((1, 2, 10), np.float32), "dtype-differs"),
        (np.full((1, 2, 10), np.nan), "not-finite"),
    ],
)
def test_tables_are_checked_when_they_arrive(sent: np.ndarray, refused: str | None) -> None:
    request = Message(RecordDict(), 1, MessageType.EVALUATE)
    content = RecordDict(
        {
            "metrics": MetricRecord({"weight": 1.0}),
            "site": ConfigRecord({"name": "a"}),
            "tables": ArrayRecord({"tables": Array(sent)}),
        }
    )
    read = read_reply(request, Message(content, reply_to=request), 0.0, "evaluate", {"tables": (1, 2, 20)})
    assert read.refused == refused
    assert (read.histograms is None) == (refused is not None)
