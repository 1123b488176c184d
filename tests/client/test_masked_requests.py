"""Whatever a coordinator asks of a site in a run of masked sums, in whatever order: through the site's whole path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.app import Context, Message, MessageType, RecordDict

from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from client.simulated import simulated_manifest
from client.site_folder import StateFolder
from mmmed.config import RunConfig
from mmmed.errors import ConfigError, DataError
from mmmed.federation.protocol import JoinReply, SumRequest, TrainReply
from mmmed.models import build_model, trainable_state
from privacy.accounting import DpSgdEvent, calibrate_noise_multiplier, epsilon
from privacy.dpsgd import sensitivity
from privacy.errors import BudgetExceeded, VoidStep
from privacy.ledger import Plan
from privacy.report import read_statement
from privacy.report.statement import Statement
from privacy.secure_sum import Coordinator, Terms
from privacy.secure_sum.keys import introduce, read_introductions, write_introductions
from simulations.loopback.hospital import rules
from tests.client.requests import request
from tests.simulations.test_secure_steps import quick

PEERS = {"honest": 3, "colluders": 1, "least_cohort": 4, "repeats": 6}
MASKED = {"min_sites": 4, "honest": 3}


def _hex(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


@dataclass
class Federation:
    """Sites under a policy of their own, and a coordinator who asks what it likes. The first `real` are sites of the

    generated hospitals; of the others the coordinator has the keys.
    """

    config: RunConfig
    folder: Path
    names: tuple[str, ...]
    real: int = 1
    others: dict[str, Ed25519PrivateKey] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.others = {name: Ed25519PrivateKey.generate() for name in self.names[self.real :]}
        strangers = {name: _hex(Ed25519PrivateKey.generate()) for name in self.names}
        for number in range(self.real):
            self.policy(number, peers={**PEERS, "keys": strangers})  # enough to ask a site for its own key
        keys = self.keys()
        for number in range(self.real):
            self.policy(number, peers={**PEERS, "keys": keys})

    def state(self, number: int) -> Path:
        return self.folder / f"state-{number}"

    def policy(self, number: int, **changes: Any) -> None:
        """Write a site's policy; `peers` in it takes the keys of all sites."""
        written = rules()
        written["run"] |= {
            "max_records_per_patient": 50,
            "trainable": ["fusion-head"],
            "min_patients": 1,
            "min_noise_multiplier": 0.01,
        }
        for name, value in changes.items():
            section, _, key = name.rpartition("__")
            (written[section] if section else written)[key] = value
        (self.folder / f"policy-{number}.toml").write_text(tomli_w.dumps(written))

    def ask(
        self,
        number: int,
        asked: SumRequest | None,
        kind: str = MessageType.TRAIN,
        *,
        config: RunConfig | None = None,
        step: Any = 1,
        fields: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Message:
        message = request(config or self.config, kind, **{"server-round": step}, **more)
        if asked is not None:
            message.content["sum"] = asked.to_record()
            message.content["sum"].update(fields or {})
        own = {
            "partition-id": number,
            "num-partitions": len(self.names),
            "state-dir": str(self.state(number)),
        }
        own["policy"] = str(self.folder / f"policy-{number}.toml")
        return app(message, Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={}))

    def keys(self) -> dict[str, str]:
        answers = (self.ask(n, SumRequest(), MessageType.QUERY) for n in range(self.real))
        real = {one.site: one.key for one in (JoinReply.read(reply.content) for reply in answers)}
        return real | {name: _hex(key) for name, key in self.others.items()}

    def terms(self, config: RunConfig | None = None, **changes: Any) -> Terms:
        config = config or self.config
        privacy, federation = config.privacy, config.federation
        sigma = calibrate_noise_multiplier(
            privacy.target_epsilon,
            privacy.delta,
            federation.sampling_rate,
            federation.rounds + federation.repeats,
        )
        shapes = {name: value.shape for name, value in trainable_state(build_model(config)).items()}
        values: dict[str, Any] = {
            "clip": sensitivity(privacy.max_grad_norm),
            "noise_multiplier": float(np.ceil(sigma * 1e4) / 1e4),
            "sampling_rate": federation.sampling_rate,
            "steps": federation.rounds,
            "repeats": federation.repeats,
            "honest": federation.honest,
            "least_cohort": federation.min_sites,
        }
        planned = Terms.planned("r", self.keys(), shapes, **values)
        return replace(planned, **changes)

    def begin(self, config: RunConfig | None = None, **changes: Any) -> SumRequest:
        """Terms and the sites' keys under them, as they go with every attempt."""
        terms = self.terms(config, **changes)
        introductions = [
            introduce(terms, name, key, X25519PrivateKey.generate()) for name, key in self.others.items()
        ]
        for number in range(self.real):
            reply = self.ask(number, SumRequest(terms.content), MessageType.QUERY, config=config)
            assert not reply.has_error(), refusals(self.state(number))
            introductions += read_introductions(JoinReply.read(reply.content).introduction)
        introductions.sort(key=lambda one: one.name)
        return SumRequest(terms.content, write_introductions(introductions), 1, self.names)

    def charged(self, number: int) -> int:
        """Steps that the site's ledger has charged the run."""
        with StateFolder(self.state(number)).inspect() as ledger:
            return sum((last - first + 1) * steps for first, last, steps in ledger.charged_rounds("r"))

    def planned(self, number: int) -> list[Plan]:
        """The plans that the site has signed."""
        with StateFolder(self.state(number)).inspect() as ledger:
            return list(ledger.plans())


@pytest.fixture
def federation(hospitals: Path, tmp_path: Path) -> Federation:
    config = quick(hospitals, **MASKED)
    return Federation(config, tmp_path, tuple(simulated_manifest(config).sites))


def stated(reply: Message) -> Statement:
    assert not reply.has_error(), reply.error.reason
    return read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))


def refused(reply: Message) -> str:
    assert reply.has_error()
    return str(reply.error.reason)


def test_the_words_of_all_sites_make_a_sum(hospitals: Path, tmp_path: Path) -> None:
    config = quick(hospitals, **MASKED)
    federation = Federation(config, tmp_path, tuple(simulated_manifest(config).sites), real=4)
    asked = federation.begin()
    coordinator = Coordinator(Terms.parse(asked.terms), read_introductions(asked.keys))
    coordinator.ask(1, federation.names, bytes(32))
    for number, name in enumerate(federation.names):
        reply = federation.ask(number, asked)
        said = stated(reply)
        assert said.shared is not None and said.shared.honest == 3 and said.steps == 1
        coordinator.add(name, TrainReply.read(reply.content).update)
    assert np.isfinite(coordinator.total()).all()


def test_a_run_has_one_agreement(federation: Federation) -> None:
    """Steps under the noise of many must not be signed for as steps under the noise of one."""
    asked = federation.begin()
    values = federation.config.model_dump()
    values["federation"]["honest"] = 1
    alone = RunConfig.model_validate(values)
    terms = federation.terms(alone, noise_multiplier=Terms.parse(asked.terms).noise_multiplier)
    reply = federation.ask(0, SumRequest(terms.content), MessageType.QUERY, config=alone)
    assert refused(reply) == Refusal.LEDGER
    assert stated(federation.ask(0, asked)).shared.honest == 3


def test_a_masked_run_is_no_other_run_and_no_other_run_is_masked(federation: Federation) -> None:
    """A statement on steps with all of the noise must not cover steps with a share of it, nor the other way round."""
    asked = federation.begin()
    values = federation.config.model_dump()
    values["federation"] |= {"release": "steps", "rounds": 3 + 6, "repeats": 6}
    steps = RunConfig.model_validate(values)
    stated(federation.ask(0, asked))
    assert refused(federation.ask(0, None, config=steps, step=2)) == Refusal.PLAN
    assert federation.charged(0) == 1


def test_a_run_of_steps_is_never_masked(federation: Federation) -> None:
    values = federation.config.model_dump()
    values["federation"] |= {"release": "steps", "rounds": 3 + 6}
    steps = RunConfig.model_validate(values)
    noise = stated(federation.ask(0, None, config=steps)).mechanism.noise_multiplier
    terms = federation.terms(noise_multiplier=noise)
    reply = federation.ask(0, SumRequest(terms.content), MessageType.QUERY)
    assert refused(reply) == Refusal.LEDGER and federation.charged(0) == 1


def test_a_policy_without_peers_refuses_before_any_data_are_opened(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = federation.terms()

    def opened(*_: Any) -> None:
        raise AssertionError("the data set was opened")

    federation.policy(0)
    monkeypatch.setattr("client.simulated.Partition.open", opened)
    for kind in (MessageType.QUERY, MessageType.TRAIN):
        reply = federation.ask(0, SumRequest(terms.content, b"[]", 1, federation.names), kind)
        assert refused(reply) == Refusal.POLICY, refusals(federation.state(0))[-1]


def test_terms_without_this_site_plan_nothing(federation: Federation) -> None:
    terms, own = federation.terms(), federation.names[0]
    others = tuple(one for one in terms.roster if one[0] != own)
    values = federation.config.model_dump()
    values["federation"]["min_sites"] = 3
    config = RunConfig.model_validate(values)
    federation.policy(0, peers={**PEERS, "colluders": 0, "least_cohort": 3, "keys": dict(terms.roster)})
    for roster in (others, (*others[:2], (own, others[2][1]))):
        asked = federation.terms(config, roster=tuple(sorted(roster)))
        reply = federation.ask(0, SumRequest(asked.content), MessageType.QUERY, config=config)
        assert reply.has_error()
    assert not StateFolder(federation.state(0)).ledger.exists() or federation.planned(0) == []


@pytest.mark.parametrize(("metrics", "step"), [("none", 3), ("private", 3), ("private", 4)])
def test_a_run_that_is_over_leaves_no_key(federation: Federation, metrics: str, step: int) -> None:
    asked = federation.begin()
    stated(federation.ask(0, asked))
    values = federation.config.model_dump()
    values["privacy"]["metrics"] = metrics
    federation.ask(0, None, MessageType.EVALUATE, config=RunConfig.model_validate(values), step=step)
    kept = {path.name for path in StateFolder(federation.state(0)).secure_sum("r").rglob("*")}
    assert "closed" in kept and not {"secret", "answer"} & kept
    assert refused(federation.ask(0, replace(asked, attempt=2), step=2)) == Refusal.PLAN
    assert federation.charged(0) == 1


def test_terms_that_no_lattice_holds_are_refused_by_their_code(federation: Federation) -> None:
    terms = json.loads(federation.terms().content)
    for changes in ({"noise_multiplier": 1e-30}, {"clip": 1e-30}, {"lattice_step": 2.0**-90}):
        content = json.dumps(terms | changes, sort_keys=True, separators=(",", ":")).encode()
        assert refused(federation.ask(0, SumRequest(content), MessageType.QUERY)) == Refusal.PLAN


DIFFERENT: dict[str, Any] = {
    "run": "other",
    "layout": "0" * 64,
    "dimension": 7,
    "clip": 0.5,
    "noise_multiplier": 0.3,  # too small for the run's epsilon
    "honest": 1,
    "colluders": 0,
    "least_cohort": 4,
    "sampling_rate": 0.25,
    "steps": 2,
    "repeats": 5,
    "lattice_step": 2.0**-30,
    "word_bits": 32,
    "release": "steps",
}


def test_terms_are_those_of_the_run_in_every_field(federation: Federation) -> None:
    values = federation.config.model_dump()
    values["federation"] |= {"min_sites": 3, "honest": 2}
    config = RunConfig.model_validate(values)
    federation.policy(
        0, peers={**PEERS, "colluders": 0, "least_cohort": 2, "keys": dict(federation.terms().roster)}
    )
    terms = federation.terms(config)
    for name, value in DIFFERENT.items():
        told = asdict(terms) | {name: value}
        assert told != asdict(terms), name
        content = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        reply = federation.ask(0, SumRequest(content), MessageType.QUERY, config=config)
        assert refused(reply) == Refusal.PLAN, name
    assert set(DIFFERENT) == set(asdict(terms)) - {"roster"}
    assert not StateFolder(federation.state(0)).ledger.exists() or not federation.planned(0)


def test_a_noise_multiplier_is_charged_at_its_epsilon(federation: Federation) -> None:
    enough = federation.terms().noise_multiplier
    for sigma in (enough - 1e-4, enough - 1e-9):
        content = federation.terms(noise_multiplier=sigma).content
        assert refused(federation.ask(0, SumRequest(content), MessageType.QUERY)) == Refusal.PLAN
    asked = federation.begin(noise_multiplier=enough + 0.9999e-4)
    said = stated(federation.ask(0, asked))
    assert said.mechanism == DpSgdEvent(enough, 0.5, 3 + 6)
    assert epsilon([said.mechanism], said.delta) <= said.epsilon <= federation.config.privacy.target_epsilon


def test_who_the_officer_did_not_sign_for_takes_no_part(federation: Federation) -> None:
    terms = federation.terms()
    (own, key), *others = terms.roster
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    for roster in (
        ((own, key), *others, ("zeta", stranger)),
        ((own, key), *others[:2], (others[2][0], stranger)),
        ((own, key), *others[:2], (others[2][0], others[1][1])),
        ((own, key), *others, ("zeta", others[0][1])),
    ):
        told = asdict(terms) | {"roster": roster}
        content = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        reply = federation.ask(0, SumRequest(content), MessageType.QUERY)
        assert refused(reply) in (Refusal.POLICY, Refusal.PLAN)
    assert not StateFolder(federation.state(0)).ledger.exists() or not federation.planned(0)


def test_a_policy_that_became_stricter_holds_for_the_next_attempt(federation: Federation) -> None:
    asked = federation.begin()
    stated(federation.ask(0, asked))
    keys = dict(Terms.parse(asked.terms).roster)
    fewer = {name: keys[name] for name in federation.names[:3]}
    for stricter in (
        {"honest": 2},
        {"colluders": 2},
        {"least_cohort": 5},
        {"repeats": 5},
        {"keys": fewer},
        None,
    ):
        federation.policy(0, **({} if stricter is None else {"peers": {**PEERS, "keys": keys, **stricter}}))
        for attempt in (1, 2):  # the kept answer, too
            assert refused(federation.ask(0, replace(asked, attempt=attempt))) == Refusal.POLICY
    federation.policy(0, peers={**PEERS, "keys": keys}, run__min_noise_multiplier=9.0)
    assert refused(federation.ask(0, replace(asked, attempt=2))) == Refusal.POLICY
    assert federation.charged(0) == 1


def test_keys_are_the_sites_own_of_this_run_and_stay(federation: Federation) -> None:
    asked = federation.begin()
    mine, *others = read_introductions(asked.keys)
    foreign = [replace(one, key="00" * 32) for one in others[:1]]
    foreign += [replace(others[0], key=others[1].key, signature=others[1].signature)]
    foreign += [replace(others[0], key=others[1].key)]
    foreign += [replace(others[0], name=others[1].name)]
    for other in foreign:
        bundle = write_introductions([mine, other, *others[1:]])
        assert refused(federation.ask(0, replace(asked, keys=bundle))) == Refusal.PLAN
    for bundle in (
        write_introductions(others),
        write_introductions([mine, *others[:2]]),
        b"{}",
        b"",
        b"[[1]]",
    ):
        assert refused(federation.ask(0, replace(asked, keys=bundle))) == Refusal.PLAN
    assert federation.charged(0) == 0
    stated(federation.ask(0, asked))
    again = federation.ask(0, SumRequest(asked.terms), MessageType.QUERY)  # its key of the run stays
    assert JoinReply.read(again.content).introduction == write_introductions([mine])
    other = write_introductions(read_introductions(federation.begin().keys))  # new keys of the others
    assert refused(federation.ask(0, replace(asked, keys=other, attempt=2))) == Refusal.PLAN
    assert federation.charged(0) == 1


def test_an_attempt_is_answered_once(federation: Federation) -> None:
    asked = federation.begin()
    first = federation.ask(0, asked)
    words = TrainReply.read(first.content).update
    assert TrainReply.read(federation.ask(0, asked).content).update == words
    assert refused(federation.ask(0, asked, moved=1e-3)) == Refusal.PLAN  # another model
    assert refused(federation.ask(0, replace(asked, cohort=federation.names[:3]))) == Refusal.PLAN
    assert refused(federation.ask(0, asked, step=2)) == Refusal.PLAN
    assert refused(federation.ask(0, replace(asked, cohort=federation.names[1:], attempt=2))) == Refusal.PLAN
    assert federation.charged(0) == 1
    later = TrainReply.read(federation.ask(0, replace(asked, attempt=5), step=2).content).update
    assert later != words and len(later) == len(words)
    for attempt, step in ((4, 2), (5, 1), (6, 1), (10, 3), (6, 4), (6, 0)):
        assert refused(federation.ask(0, replace(asked, attempt=attempt), step=step)) == Refusal.PLAN
    for step in (-1, 1 << 40):  # no number of a round at all
        assert refused(federation.ask(0, replace(asked, attempt=6), step=step)) == Refusal.REQUEST
    assert federation.charged(0) == 2
    for attempt in (6, 7, 8, 9):
        stated(federation.ask(0, replace(asked, attempt=attempt), step=3))
    assert refused(federation.ask(0, replace(asked, attempt=10), step=3)) == Refusal.PLAN
    assert federation.charged(0) == 6


FORMS: tuple[dict[str, Any], ...] = (
    *({"attempt": value} for value in (True, 1.0, "1", 0, -1, 1 << 40)),
    *(
        {"cohort": value}
        for value in ("harbour", [1, 2], [], ["harbour"] * 4, ["old-mill", "meadow", "harbour"])
    ),
    *({"terms": value} for value in ("{}", b"{}", b"", b"null", b"[" * 10_000)),
    *({"keys": value} for value in ("[]", b"[", b"[[1]]", b"{}")),
)


def test_fields_of_another_form_are_refused_before_the_charge(federation: Federation) -> None:
    asked = federation.begin()
    for fields in FORMS:
        reply = federation.ask(0, asked, fields=fields)
        assert refused(reply) in (Refusal.REQUEST, Refusal.PLAN), (fields, refusals(federation.state(0))[-1])
    assert refused(federation.ask(0, None)) == Refusal.REQUEST  # no such part at all
    assert federation.charged(0) == 0


def test_delta_and_target_stay(federation: Federation) -> None:
    asked = federation.begin()
    stated(federation.ask(0, asked))
    for changes in ({"delta": 5e-4}, {"target_epsilon": 1.0}, {"max_grad_norm": 0.5}):
        values = federation.config.model_dump()
        values["privacy"] |= changes
        reply = federation.ask(0, replace(asked, attempt=2), config=RunConfig.model_validate(values))
        assert refused(reply) in (Refusal.PLAN, Refusal.LEDGER)
    assert federation.charged(0) == 1


def test_after_the_charge_every_failure_is_one_code(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = federation.begin()
    errors = (VoidStep("x"), BudgetExceeded("x"), ConfigError("x"), MemoryError("x"), DataError("SMITH"))
    for attempt, error in enumerate(errors, start=1):

        def fails(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        with monkeypatch.context() as broken:
            broken.setattr("client.secure_steps.train", fails)
            assert refused(federation.ask(0, replace(asked, attempt=attempt))) == Refusal.FAILED
        assert federation.charged(0) == attempt
        assert (
            refused(federation.ask(0, replace(asked, attempt=attempt))) == Refusal.VOID
        )  # and stays charged
    stated(federation.ask(0, replace(asked, attempt=9)))
    assert federation.charged(0) == len(errors) + 1


def test_restored_keys_answer_nothing_twice(federation: Federation, tmp_path: Path) -> None:
    asked = federation.begin()
    kept = StateFolder(federation.state(0)).secure_sum("r")
    shutil.copytree(kept, tmp_path / "backup")
    stated(federation.ask(0, asked))
    stated(federation.ask(0, replace(asked, attempt=2)))
    shutil.rmtree(kept)
    shutil.copytree(tmp_path / "backup", kept)
    assert refused(federation.ask(0, asked)) == Refusal.PLAN
    assert refused(federation.ask(0, replace(asked, attempt=2))) == Refusal.VOID
    shutil.rmtree(kept)
    assert refused(federation.ask(0, SumRequest(asked.terms), MessageType.QUERY)) == Refusal.PLAN
    assert refused(federation.ask(0, replace(asked, attempt=3))) == Refusal.PLAN
    assert federation.charged(0) == 2


def test_a_patient_shows_in_nothing_but_the_words(
    federation: Federation, hospitals: Path, tmp_path: Path
) -> None:
    """Neighbours: a patient less, other labels, other inputs. Who answers what, and how long it is, stays."""
    table = pd.read_csv(hospitals / "data.csv")
    mine = table[table["site"] == federation.names[0]]
    patient = mine["patient_id"].iloc[-1]
    answers = {}
    for case in ("as it is", "a patient less", "other labels", "other inputs"):
        changed = table.copy()
        rows = changed["patient_id"] == patient
        if case == "a patient less":
            changed = changed[~rows]
        elif case == "other labels":
            changed.loc[rows, "finding"] = 1 - changed.loc[rows, "finding"]
        elif case == "other inputs":
            changed.loc[rows, ["image", "text"]] = mine["image"].iloc[0], "left " * 5000
        home = tmp_path / case
        shutil.copytree(hospitals, home, dirs_exist_ok=True)
        changed.to_csv(home / "data.csv", index=False)
        values = federation.config.model_dump()
        values["data"]["source"] = str(home)
        other = Federation(RunConfig.model_validate(values), home, federation.names)
        asked = other.begin()
        replies = [other.ask(0, replace(asked, attempt=attempt), step=attempt) for attempt in (1, 2, 3)]
        answers[case] = [
            shape_of(reply) for reply in [*replies, other.ask(0, replace(asked, attempt=2), step=3)]
        ]
    assert all(answer == answers["as it is"] for answer in answers.values())


def shape_of(reply: Message) -> Any:
    """What of a reply may not depend on any record: all but words, keys, links and the clock."""
    if reply.has_error():
        return reply.error.reason
    fields = dict(reply.content["site"])
    said = json.loads(str(fields.pop("privacy.statement")))
    receipt = json.loads(str(fields.pop("privacy.receipt")))
    for name in ("signature", "ledger", "key", "time"):
        said[name] = len(str(said[name]))
    return (
        dict(reply.content["metrics"]),
        fields,
        said,
        receipt[0],
        len(TrainReply.read(reply.content).update),
        sorted(reply.content),
    )
