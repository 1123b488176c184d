"""The question what a site would refuse: answered by its policy and its software, of nothing that a patient changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.app import app
from client.records_lock import nobody_reads
from client.site_folder import StateFolder
from mmmed.config import RunConfig
from mmmed.federation.protocol import CHECK_MESSAGE, CheckReply, Refused
from simulations.loopback.hospital import Hospital
from tests.client.requests import request

Told = tuple[str, str, str]


def asked(hospital: Hospital, config: RunConfig) -> Told:
    own = Context(1, 1, {"site-dir": str(hospital.path)}, RecordDict(), {})
    reply = app(request(config, CHECK_MESSAGE), own)
    assert not reply.has_error(), reply
    told = CheckReply.read(reply.content)
    assert told.site == "north" and not told.stated and not told.metrics
    return told.refused, told.rule, told.purpose


def files(folder: Path) -> dict[str, bytes]:
    """All that lies there, but the log of refusals."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "site.log"
    }


def test_the_first_rule_that_refuses_is_named_for_each_purpose(
    hospital: Hospital, configured: Callable[..., RunConfig]
) -> None:
    cases: list[tuple[dict[str, Any], Told]] = [
        ({}, ("", "", "")),
        ({"privacy": {"delta": 1e-3, "target_epsilon": 9.0}}, ("policy-refused", "run.epsilon", "training")),
        ({"model": {"trainable": "norm-bias"}}, ("policy-refused", "run.trainable", "training")),
        ({"privacy": {"delta": 1e-3, "metrics": "rounded"}}, ("policy-refused", "metrics", "evaluation")),
        (
            {
                "federation": {"release": "secure-steps", "honest": 2, "min_sites": 2},
                "training": {"batch_size": 8, "optimizer": "sgd", "local_epochs": 4.0, "augment": False},
            },
            ("policy-refused", "peers", "training"),
        ),
    ]
    assert [asked(hospital, configured(**sections)) for sections, _ in cases] == [told for _, told in cases]
    assert (
        "run.epsilon: allowed is at most 8" in (hospital.state / "site.log").read_text()
    )  # its own log alone
    hospital.write_site(approval=True)
    assert asked(hospital, configured())[0] == "awaiting-approval"
    hospital.write_site(approval=False)
    (hospital.path / "site-policy.toml.sig").unlink()
    assert asked(hospital, configured())[0] == "policy-unusable"


def test_no_patient_has_a_part_in_the_answer_and_nothing_is_left_behind(
    hospital: Hospital, configured: Callable[..., RunConfig], tmp_path: Path
) -> None:
    allowed, refused = configured(), configured(training={"records_per_patient": 3})

    def both() -> list[Told]:
        before = files(hospital.path)
        told = [asked(hospital, config) for config in (allowed, refused)]
        assert files(hospital.path) == before  # no ledger, no plan, no note of the clock, no answer kept
        return told

    first = both()
    assert first == [("", "", ""), ("policy-refused", "run.max_records_per_patient", "training")]
    own = Context(1, 1, {"site-dir": str(hospital.path)}, RecordDict(), {})
    assert not app(request(allowed), own).has_error()  # patients are charged now
    with nobody_reads(
        StateFolder(hospital.state).records_lock
    ):  # and one of them withdraws: it waits for nothing
        assert both() == first
    few = tmp_path / "few"
    shutil.copytree(hospital.site["dataset"], few)
    lines = (few / "data.csv").read_text().splitlines(keepends=True)
    (few / "data.csv").write_text("".join(lines[:3]))  # fewer than run.min_patients
    hospital.write_site(dataset=str(few))
    assert both() == first
    hospital.write_site(dataset="nowhere")
    assert both() == first


def test_a_policy_that_needs_a_second_officer_is_foreseen_by_the_ledger(
    hospital: Hospital, configured: Callable[..., RunConfig]
) -> None:
    own = Context(1, 1, {"site-dir": str(hospital.path)}, RecordDict(), {})
    assert not app(request(configured()), own).has_error()
    hospital.sign(run__epsilon=11.0)
    assert asked(hospital, configured()) == ("policy-refused", "run.epsilon", "training")
    hospital.sign(by_two=True)
    before = files(hospital.path)
    assert asked(hospital, configured()) == ("", "", "")
    assert files(hospital.path) == before  # the new policy is not adopted by a question


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["refused", "rule", "purpose", "more"]),
        st.text(max_size=50) | st.sampled_from(["", "run.epsilon", "policy-refused"]) | st.integers(0, 9),
    )
)
def test_an_answer_is_codes_or_nothing(fields: dict[str, Any]) -> None:
    record = CheckReply(site="north").to_record()
    record["check"] = ConfigRecord(fields)
    try:
        told = CheckReply.read(record)
    except Refused:
        return
    assert all(
        one == "" or (one.isascii() and one.isprintable() and " " not in one and len(one) <= 61)
        for one in (told.refused, told.rule, told.purpose)
    )


def test_another_record_is_refused() -> None:
    with pytest.raises(Refused):
        CheckReply.read(RecordDict({}))
