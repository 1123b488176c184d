"""A deployed site answers from its own folder, under its officer's policy, whatever the server sends."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, MessageType, RecordDict

from client.app import app
from client.hospital import Hospital as Place
from client.refusal_log import refusals
from client.release import Refusal
from client.run_request import run_request
from client.site import Site
from client.site_folder import SiteFolder
from mmmed.config import RunConfig
from mmmed.deidentify import SiteKey
from privacy.errors import LedgerError, PolicyRefusal
from privacy.keys import load_key, public_pem
from privacy.ledger import Ledger
from privacy.policy import TRAINING, sign_policy
from privacy.report import read_statement
from tests.client.requests import request

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

Configured = Callable[..., RunConfig]


def node(hospital: Hospital, **more: Any) -> Context:
    own = {"site-dir": str(hospital.path)} | more
    return Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})


def opened(hospital: Hospital, config: RunConfig, apps: list[str]) -> Site:
    place = Place(hospital.path, apps)
    return place.open(config, place.judge(config, TRAINING))


def refused(reply: Message) -> str:
    assert reply.has_error()
    return reply.error.reason


def test_a_hospital_trains_on_its_own_data_and_states_its_spending(
    hospital: Hospital, configured: Configured
) -> None:
    config = configured(data={"source": "/the/servers/idea", "table": "x.csv", "patient": "study_id"})
    reply = app(request(config), node(hospital))
    assert not reply.has_error(), refusals(hospital.state)
    stated = read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))
    assert stated.site == "north" and stated.epsilon <= 8 and not stated.metrics_shown
    signed = hashlib.sha256((hospital.path / "site-policy.toml").read_bytes()).hexdigest()
    assert [digest for _, digest in stated.policies or ()] == [signed]
    assert dict(reply.content["metrics"]) == {"weight": 1.0}
    assert hospital.state.stat().st_mode & 0o077 == 0
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        (plan,) = ledger.plans()
        assert plan.purpose == TRAINING and sum(e.steps for e in ledger.events()) == stated.steps
        assert ledger.limit.epsilon == 12


def test_the_site_says_who_its_patients_are_and_which_rows_it_offers(
    hospital: Hospital, configured: Configured, hospitals: Path
) -> None:
    config = configured(data={"patient": "study_id", "site": "image", "where": {"image": "a.dcm"}})
    seen = SiteFolder(hospital.path).data_config(config).data
    assert (seen.source, seen.table) == (str(hospitals), "data.csv")
    assert (seen.patient, seen.study, seen.site) == ("patient_id", "study_id", "site")
    assert seen.where == {"image": "a.dcm", **hospital.site["where"]}
    reply = app(request(configured(data={"where": {"site": "other"}})), node(hospital))
    assert refused(reply) == Refusal.POLICY  # the policy lists no such column
    hospital.sign(by_two=True, run__columns=["finding", "image", "text", "site"])
    reply = app(request(configured(data={"where": {"site": "other"}})), node(hospital))
    assert refused(reply) == Refusal.REQUEST


@pytest.mark.parametrize(
    ("sections", "rule"),
    [
        ({"privacy": {"enabled": False}}, "run.epsilon"),
        ({"privacy": {"target_epsilon": 8.1}}, "run.epsilon"),
        ({"privacy": {"delta": 2e-3}}, "run.delta"),
        ({"training": {"records_per_patient": 3}}, "run.max_records_per_patient"),
        ({"model": {"image": "resnet18"}}, "run.models"),
        ({"model": {"text": "/etc"}}, "run.models"),
        ({"model": {"image_weights": "/etc/passwd"}}, "run.models"),
        ({"model": {"trainable": "fusion-head"}}, "run.trainable"),
        ({"task": {"label": "patient_id"}}, "run.columns"),
        ({"data": {"text": "site"}}, "run.columns"),
        ({"data": {"fold": "study_id"}}, "run.columns"),
        ({"data": {"where": {"patient_id": "p1"}}}, "run.columns"),
        ({"data": {"volume": "volume"}}, "run.models"),
        ({"data": {"numbers": {"age": [0, 90]}}}, "run.columns"),
        ({"data": {"categories": {"sex": ["F", "M"]}}}, "run.columns"),
    ],
)
def test_a_refusal_names_its_rule_at_the_site_and_nothing_but_a_code_elsewhere(
    hospital: Hospital, configured: Configured, sections: dict[str, Any], rule: str
) -> None:
    hospital.write_site(dataset="/not/there")  # no data are looked for before the policy allows it
    reply = app(request(configured(**sections)), node(hospital))
    assert refused(reply) == Refusal.POLICY
    (line,) = refusals(hospital.state)
    assert f"PolicyRefusal: {rule}:" in line


def test_a_policy_lists_columns_and_encoders_of_every_modality(configured: Configured) -> None:
    data = {"volume": "ct", "volume_window": [-1000, 400], "numbers": {"age": [0, 90]}}
    request = run_request(configured(data={**data, "categories": {"sex": ["F", "M"]}}), TRAINING, "installed")
    assert request.columns == {"finding", "image", "text", "ct", "age", "sex"}
    assert request.model == "resnet10+tiny+3d-resnet10+table"
    assert request.former_model == "resnet10+tiny+3d-resnet10"


@pytest.mark.parametrize("listed", ["tiny", "resnet10+tiny", None])
def test_a_policy_allows_a_run_of_notes_by_what_it_reads_and_by_what_it_was_called(
    hospital: Hospital, configured: Configured, listed: str | None
) -> None:
    hospital.sign(run__models=[listed or "resnet10"])
    reply = app(request(configured(data={"image": "", "text_tokens": 16})), node(hospital))
    if listed:
        assert not reply.has_error(), refusals(hospital.state)
    else:
        assert refused(reply) == Refusal.POLICY
        assert "run.models" in refusals(hospital.state)[0] and "'tiny'" in refusals(hospital.state)[0]


@pytest.mark.parametrize(
    ("change", "sections", "rule"),
    [
        ({"run__min_patients": 10_000}, {}, "run.min_patients"),
        ({"run__min_noise_multiplier": 50.0}, {}, "run.min_noise_multiplier"),
        ({"expires": date(2020, 1, 1)}, {}, "expires"),
        ({"run__apps": ["sha256:aa"]}, {}, "run.apps"),
        ({"unit": "study"}, {}, None),
        ({"adjacency": "replace_one"}, {}, "adjacency"),
        ({"purposes": {"evaluation": 1.0}}, {}, "purposes"),
    ],
)
def test_the_policy_holds_for_what_the_site_works_out_itself(
    hospital: Hospital,
    configured: Configured,
    change: dict[str, Any],
    sections: dict[str, Any],
    rule: str | None,
) -> None:
    hospital.sign(**change)
    reply = app(request(configured(**sections)), node(hospital))
    if rule is None:
        assert not reply.has_error()
        return
    assert refused(reply) == Refusal.POLICY
    assert rule in refusals(hospital.state)[0]
    folder = SiteFolder(hospital.path)
    with folder.ledger(folder.policy()) as ledger:
        assert not ledger.events()


@pytest.mark.parametrize("rule", ["limit", "period", "purposes"])
def test_runs_share_the_limits_of_the_policy(hospital: Hospital, configured: Configured, rule: str) -> None:
    generous = {"limit__epsilon": 30.0, "period__epsilon": 30.0, "purposes": {"training": 30.0}}
    change = {"purposes": {"training": 9.0}} if rule == "purposes" else {f"{rule}__epsilon": 9.0}
    hospital.sign(**(generous | change))
    config = configured(federation={"rounds": 1})
    assert not app(request(config), node(hospital)).has_error()
    assert refused(app(request(config, **{"run-id": "another"}), node(hospital))) == Refusal.BUDGET
    assert rule in refusals(hospital.state)[0]


def test_a_policy_that_became_stricter_stops_a_run_on_its_way(
    hospital: Hospital, configured: Configured
) -> None:
    config = configured()
    assert not app(request(config), node(hospital)).has_error()
    hospital.sign(limit__epsilon=4.0)
    reply = app(request(config, **{"server-round": 2}), node(hospital))
    assert refused(reply) == Refusal.BUDGET
    assert "4" in refusals(hospital.state)[0]


def test_without_a_policy_that_holds_nothing_is_done(hospital: Hospital, configured: Configured) -> None:
    path = hospital.path / "site-policy.toml"
    signature = path.with_name(path.name + ".sig")
    text, signed = path.read_text(), signature.read_text()

    def refuses(match: str) -> None:
        reply = app(request(configured()), node(hospital))
        assert refused(reply) == Refusal.NO_POLICY
        assert match in refusals(hospital.state)[-1]
        assert not (hospital.state / "ledger.db").exists()
        path.write_text(text)
        signature.write_text(signed)

    path.unlink()
    refuses("cannot be read")
    signature.unlink()
    refuses("cannot be read")
    path.write_text(text.replace("12.0", "99.0"))
    refuses("was edited")
    sign_policy(path, Ed25519PrivateKey.generate())
    refuses("another key")
    hospital.write_site(name="south")
    refuses("is for site 'north'")


def test_another_officer_or_a_wider_policy_needs_a_second_signature(
    hospital: Hospital, configured: Configured
) -> None:
    assert not app(request(configured()), node(hospital)).has_error()
    hospital.sign(run__epsilon=9.0)
    assert refused(app(request(configured()), node(hospital))) == Refusal.POLICY
    hospital.sign(run__epsilon=8.0)
    hospital.officer = Ed25519PrivateKey.generate()
    (hospital.path / "officer.pub").write_text(public_pem(hospital.officer.public_key()))
    hospital.sign()
    assert refused(app(request(configured()), node(hospital))) == Refusal.POLICY
    assert "officer: another key" in refusals(hospital.state)[-1]
    hospital.sign(by_two=True, run__epsilon=9.0)
    assert not app(request(configured()), node(hospital)).has_error()


def test_a_ledger_that_is_gone_is_not_begun_anew(hospital: Hospital, configured: Configured) -> None:
    assert not app(request(configured()), node(hospital)).has_error()
    for file in hospital.state.glob("ledger.db*"):
        file.unlink()
    assert refused(app(request(configured()), node(hospital))) == Refusal.LEDGER


def test_a_key_that_is_gone_is_not_made_anew(hospital: Hospital, configured: Configured) -> None:
    assert not app(request(configured()), node(hospital)).has_error()
    key = (hospital.state / "site.key").read_bytes()
    (hospital.state / "site.key").unlink()
    assert refused(app(request(configured()), node(hospital))) == Refusal.LEDGER
    assert "restore the key" in refusals(hospital.state)[-1]
    assert not (hospital.state / "site.key").exists()
    (hospital.state / "site.key").write_bytes(key)
    assert not app(request(configured()), node(hospital)).has_error()


def test_a_ledger_older_than_what_the_server_has_seen_is_refused(
    hospital: Hospital, configured: Configured, tmp_path: Path
) -> None:
    first = app(request(configured()), node(hospital))
    shutil.copytree(
        hospital.state, tmp_path / "backup"
    )  # ledger and anchor together: nothing on this disk tells
    second = app(request(configured(), **{"server-round": 2}), node(hospital))
    receipts = [str(reply.content["site"]["privacy.receipt"]) for reply in (first, second)]
    shutil.rmtree(hospital.state)
    shutil.copytree(tmp_path / "backup", hospital.state)
    asked = {"server-round": 3, "ledger-receipt": receipts[1]}
    assert refused(app(request(configured(), **asked), node(hospital))) == Refusal.LEDGER
    assert "old copy" in refusals(hospital.state)[-1]
    asked["ledger-receipt"] = receipts[0]
    assert not app(request(configured(), **asked), node(hospital)).has_error()
    forged = json.loads(receipts[1])
    for made_up in (json.dumps([forged[0] + 99, *forged[1:]]), json.dumps([1, "aa", "bb"])):
        asked = {"server-round": 3, "ledger-receipt": made_up}
        assert not app(request(configured(), **asked), node(hospital)).has_error()
    asked["ledger-receipt"] = "no receipt"
    assert refused(app(request(configured(), **asked), node(hospital))) == Refusal.LEDGER


def test_patients_in_a_renamed_data_set_keep_their_spend(
    hospital: Hospital, configured: Configured, hospitals: Path, tmp_path: Path
) -> None:
    hospital.sign(limit__epsilon=9.0)
    config = configured(federation={"rounds": 1})
    assert not app(request(config), node(hospital)).has_error()
    shutil.copytree(hospitals, tmp_path / "renamed")
    hospital.write_site(dataset=str(tmp_path / "renamed"))
    assert refused(app(request(config, **{"run-id": "again"}), node(hospital))) == Refusal.BUDGET
    # another split: most of the patients were trained on before
    other = configured(federation={"rounds": 1}, training={"seed": 1, "batch_size": 8, "local_epochs": 1.0})
    assert refused(app(request(other, **{"run-id": "once-more"}), node(hospital))) == Refusal.BUDGET


def test_patients_named_by_another_key_are_refused_until_the_officer_signs_that(
    hospital: Hospital, configured: Configured, hospitals: Path, tmp_path: Path
) -> None:
    hospital.sign(limit__epsilon=9.0)
    config = configured(federation={"rounds": 1})
    assert not app(request(config), node(hospital)).has_error()
    again = tmp_path / "again"
    shutil.copytree(hospitals, again)
    table = pd.read_csv(again / "data.csv")
    table["patient_id"] = [f"other-{name}" for name in table["patient_id"]]
    table.to_csv(again / "data.csv", index=False)
    SiteKey(bytes(range(32))).mark(again)
    hospital.write_site(dataset=str(again))
    assert refused(app(request(config, **{"run-id": "again"}), node(hospital))) == Refusal.LEDGER
    said = refusals(hospital.state)[-1]
    assert "named by other keys" in said
    hospital.sign(pseudonyms=said.partition('pseudonyms = "')[2].partition('"')[0].removesuffix("\\"))
    assert refused(app(request(config, **{"run-id": "again"}), node(hospital))) == Refusal.BUDGET
    hospital.sign(by_two=True, limit__epsilon=40.0, purposes={"training": 40.0}, period__epsilon=40.0)
    assert not app(request(config, **{"run-id": "once-more"}), node(hospital)).has_error()


def test_a_run_does_not_go_on_with_other_patients_than_it_was_planned_for(
    hospital: Hospital, configured: Configured, hospitals: Path, tmp_path: Path
) -> None:
    assert not app(request(configured()), node(hospital)).has_error()
    other = tmp_path / "other"
    shutil.copytree(hospitals, other)
    table = pd.read_csv(other / "data.csv")
    table["patient_id"] = [f"new-{name}" for name in table["patient_id"]]  # as many, and others
    table.to_csv(other / "data.csv", index=False)
    hospital.write_site(dataset=str(other))
    second = request(configured(), **{"server-round": 2})
    assert refused(app(second, node(hospital))) == Refusal.PLAN
    assert "planned for other patients" in refusals(hospital.state)[-1]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "version"),
        ("version = 2\nname = 'a'", "version"),
        ("version = 1\nname = 'a'\nsimulated = true", "simulated"),
        ("version = 1\nname = '../a'", "name"),
        ("version = ", "TOML"),
    ],
)
def test_a_site_toml_that_is_wrong_is_named(hospital: Hospital, content: str, match: str) -> None:
    (hospital.path / "site.toml").write_text(content)
    with pytest.raises(Exception, match=match) as error:
        _ = SiteFolder(hospital.path).config
    assert "site.toml" in str(error.value)


def test_a_broken_site_folder_refuses_and_logs(hospital: Hospital, configured: Configured) -> None:
    (hospital.path / "site.toml").unlink()
    assert refused(app(request(configured()), node(hospital))) == Refusal.REQUEST
    assert "site.toml" in refusals(hospital.state)[0]


def test_nothing_of_the_data_leaves_by_evaluation(hospital: Hospital, configured: Configured) -> None:
    reply = app(request(configured(), MessageType.EVALUATE), node(hospital))
    assert not reply.has_error() and dict(reply.content["metrics"]) == {"weight": 1.0}


def test_a_policy_may_name_the_bundles_by_digest_or_by_signer(
    hospital: Hospital, configured: Configured
) -> None:
    config = configured()
    hospital.sign(run__apps=["sha256:aa", "ed25519:cc"])
    assert opened(hospital, config, ["sha256:aa"]).name == "north"
    assert opened(hospital, config, ["sha256:bb", "ed25519:cc"]).name == "north"
    for names in (["sha256:bb"], ["sha256:bb", "ed25519:dd"]):
        with pytest.raises(PolicyRefusal, match=r"run\.apps"):
            opened(hospital, config, names)


def test_opening_raises_what_is_wrong(hospital: Hospital, configured: Configured) -> None:
    config = configured()
    assert opened(hospital, config, ["installed"]).name == "north"
    assert opened(hospital, config, ["sha256:bb"]).name == "north"  # its code never runs
    (hospital.state / "ledger.db").write_bytes(b"no ledger")
    with pytest.raises(LedgerError):
        opened(hospital, config, ["installed"])
    (hospital.path / "officer.pub").write_text("no key")
    with pytest.raises(Exception, match=r"officer\.pub"):
        opened(hospital, config, ["installed"])


@pytest.mark.parametrize("runs", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_however_many_runs_ask_they_spend_no_more_than_the_limit(
    hospital: Hospital, configured: Configured, runs: int
) -> None:
    """Each is small enough for the policy; together they meet the limit, and all the rest are refused."""
    config = configured(privacy={"target_epsilon": 4.0})
    decisions: list[str] = []
    for number in range(runs):
        reply = app(request(config, **{"run-id": f"run-{number}"}), node(hospital))
        decisions.append(str(reply.error.reason) if reply.has_error() else "answered")
    first = decisions.index("budget-exhausted")
    assert 0 < first < 20
    assert set(decisions[:first]) == {"answered"} and set(decisions[first:]) == {"budget-exhausted"}
    with Ledger.inspect(hospital.state / "ledger.db", load_key(hospital.state / "site.key")) as ledger:
        assert ledger.spent(1e-3) <= hospital.rules["limit"]["epsilon"]
