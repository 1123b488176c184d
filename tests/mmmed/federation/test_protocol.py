"""Every code that a round's record can hold has a meaning, which the pages and the docs give."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.release import refusal_code
from mmmed.config import RunConfig, from_flat
from mmmed.config.sources import to_json
from mmmed.errors import ConfigError, DataError
from mmmed.federation.protocol import (
    MODEL,
    EvaluateReply,
    Refusal,
    Refused,
    Request,
    SumRequest,
    TrainReply,
    meaning,
    refusal_of,
    run_of,
    site_of,
)
from mmmed.models.names import former_policy_name, policy_name

ROOT = Path(__file__).parents[3]
_CODE = re.compile(r"[a-z][a-z0-9-]{0,39}")  # what the server takes for a code


@pytest.mark.parametrize("refusal", Refusal)
def test_a_code_can_be_sent_and_means_something(refusal: Refusal) -> None:
    assert _CODE.fullmatch(refusal) and refusal_of(str(refusal)) is refusal
    assert meaning(refusal) == refusal.meaning != ""


def test_a_code_of_another_version_means_nothing_and_is_no_error() -> None:
    assert refusal_of("of-the-future") is None and meaning("of-the-future") == ""


def test_the_docs_give_each_of_the_sites_codes_with_its_meaning() -> None:
    text = (ROOT / "docs" / "site.md").read_text()
    names = list(Refusal)
    own = names[: names.index(Refusal.NO_REPLY)]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", text, flags=re.MULTILINE))
    assert rows == {str(one): one.meaning for one in own}


def test_every_code_of_a_payload_that_cannot_be_used_is_a_refusal() -> None:
    codes = re.findall(r'WireError\(\s*"([a-z-]+)"', (ROOT / "mmmed" / "wire.py").read_text())
    assert len(codes) >= 5 and all(refusal_of(code) for code in codes)


def test_no_code_is_written_down_twice() -> None:
    """A literal beside the enumeration is what left codes without a meaning."""
    telling = {str(one) for one in Refusal if "-" in one}
    for package in ("client", "server", "simulations"):
        for file in (ROOT / package).rglob("*.py"):
            literals = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', file.read_text()))
            assert not literals & telling, file


def test_an_error_of_the_site_has_one_of_its_codes() -> None:
    assert refusal_code(DataError("x")) is Refusal.DATA


CONFIG = from_flat({"federation.strategy.kind": "fedadam", "training.batch_size": 3})


def test_a_request_arrives_as_it_was_sent() -> None:
    sent = Request("r", 2, CONFIG, {"text": "abc"}, {MODEL: b"1", "more": b"2"}, "receipt")
    assert Request.read(sent.to_record()) == sent
    assert run_of(sent.to_record()) == ("r", to_json(CONFIG))
    assert sent.packed("more") == b"2"
    with pytest.raises(ConfigError, match="lacks its tensors 'other'"):
        sent.packed("other")


@pytest.mark.parametrize("field", ["run-id", "run-config", "server-round", "frozen-parts"])
def test_a_request_that_lacks_a_field_is_none(field: str) -> None:
    record = Request("r", 2, CONFIG, {}, {}).to_record()
    del record["config"][field]  # type: ignore[union-attr,arg-type]
    with pytest.raises(ConfigError, match="request lacks its"):
        Request.read(record)
    with pytest.raises(ConfigError):
        Request.read(RecordDict())


def test_a_reply_arrives_as_it_was_sent() -> None:
    about = {"site": "north", "stated": {"privacy.steps": 3, "privacy.epsilon": 1.5}, "metrics": {"a": 0.5}}
    trained = TrainReply(update=b"12", weight=0.5, **about)  # type: ignore[arg-type]
    assert TrainReply.read(trained.to_record()) == trained
    counts = np.arange(8.0).reshape(1, 2, 4)
    evaluated = EvaluateReply.read(EvaluateReply(histograms=counts, **about).to_record())  # type: ignore[arg-type]
    assert np.array_equal(evaluated.histograms, counts)  # type: ignore[arg-type]
    assert replace(evaluated, histograms=None) == EvaluateReply(**about)  # type: ignore[arg-type]
    assert site_of(trained.to_record()) == ("north", about["stated"])


_PARTS = st.one_of(
    st.builds(
        ConfigRecord, st.dictionaries(st.sampled_from(["name", "run-id", "x"]), st.text() | st.floats())
    ),
    st.builds(MetricRecord, st.dictionaries(st.sampled_from(["weight", "x"]), st.floats())),
    st.builds(lambda n: ArrayRecord({n: Array(np.zeros(2))}), st.sampled_from(["update", "tables", "model"])),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["config", "site", "metrics", "arrays", "tables"]), _PARTS))
def test_whatever_arrives_is_read_or_refused(parts: dict[str, Any]) -> None:
    record = RecordDict(parts)
    with contextlib.suppress(ConfigError):
        Request.read(record)
    for reply in (TrainReply, EvaluateReply):
        try:
            read = reply.read(record)
        except Refused as refused:
            assert refusal_of(str(refused)) is not None
        else:
            assert 0 < read.weight <= 1 and read.site


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("run-id", value) for value in ("", "r" * 65, "a b", "a\nb", "../r", 3, b"r")),
        ("run-config", " " * 200_000),
        ("run-config", "[" * 100_000),
        *(("server-round", value) for value in (-1, 10**7, "9" * 5000, "one")),
        *(("frozen-parts", json.dumps({"p" * n: "d" for n in range(100)})),),
        ("frozen-parts", json.dumps({"text": "d" * 5000})),
        ("frozen-parts", "[" * 100_000),
        ("ledger-receipt", "x" * 5000),
    ],
)
def test_what_a_coordinator_sends_is_bounded(field: str, value: Any) -> None:
    record = Request("r", 2, CONFIG, {}, {}).to_record()
    record["config"][field] = value  # type: ignore[index]
    with pytest.raises(ConfigError) as told:
        Request.read(record)
    assert len(str(told.value)) < 400 and str(told.value).isprintable()


def test_masked_sums_bring_no_more_than_was_agreed() -> None:
    for sum_request in (
        SumRequest(b"x" * 5_000_000),
        SumRequest(cohort=("a\x1b[2J",)),
        SumRequest(cohort=("a",) * 20_000),
    ):
        with pytest.raises(ConfigError, match="masked sums"):
            Request.read(Request("r", 1, CONFIG, {}, {}, sum=sum_request).to_record())


@pytest.mark.parametrize(
    "key",
    [
        "model.fusion.width",
        "model.fusion.layers",
        "training.views",
        "federation.rounds",
        "federation.min_sites",
    ],
)
def test_no_setting_is_endless(key: str) -> None:
    with pytest.raises(ConfigError, match="less than or equal"):
        from_flat({key: 10**9, "training.augment": True})


def test_a_model_grown_large_has_another_name_in_a_policy() -> None:
    """2048 wide, the fusion has more parameters than the encoders that a policy names."""
    usual, large = (from_flat({"model.fusion.width": width}) for width in (256, 2048))
    assert policy_name(usual) == policy_name(RunConfig()) and former_policy_name(usual)
    assert policy_name(large) == f"{policy_name(usual)}+width:2048" and former_policy_name(large) is None
