"""Whatever a coordinator asks of a site in a run of masked sums, in whatever order: through the site's whole path."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from flwr.app import Context, Message, MessageType, RecordDict

from client.app import app
from client.refusal_log import refusals
from client.release import Refusal
from client.simulated import simulated_manifest
from client.site_folder import StateFolder
from mmmed.config import RunConfig
from mmmed.federation.protocol import JoinReply, SumRequest, TrainReply
from mmmed.models import build_model, trainable_state
from privacy.accounting import calibrate_noise_multiplier
from privacy.dpsgd import sensitivity
from privacy.report import read_statement
from privacy.report.statement import Statement
from privacy.secure_sum import Coordinator, Terms
from privacy.secure_sum.keys import read_introductions, write_introductions
from simulations.loopback.hospital import rules
from tests.client.requests import request
from tests.simulations.test_secure_steps import quick

PEERS = {"honest": 3, "colluders": 1, "least_cohort": 4, "repeats": 6}
MASKED = {"min_sites": 4, "honest": 3}


@dataclass
class Federation:
    """All sites of the generated hospitals, each under a policy of its own, and a coordinator who asks what it likes."""

    config: RunConfig
    folder: Path
    names: tuple[str, ...]

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
        own = {"partition-id": number, "num-partitions": len(self.names), "state-dir": str(self.state(number))}
        own["policy"] = str(self.folder / f"policy-{number}.toml")
        return app(message, Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={}))

    def keys(self) -> dict[str, str]:
        answers = (self.ask(n, SumRequest(), MessageType.QUERY) for n in range(len(self.names)))
        return {one.site: one.key for one in (JoinReply.read(reply.content) for reply in answers)}

    def terms(self, config: RunConfig | None = None, **changes: Any) -> Terms:
        config = config or self.config
        privacy, federation = config.privacy, config.federation
        sigma = calibrate_noise_multiplier(
            privacy.target_epsilon, privacy.delta, federation.sampling_rate, federation.rounds + federation.repeats
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
        introductions = []
        for number in range(len(self.names)):
            reply = self.ask(number, SumRequest(terms.content), MessageType.QUERY, config=config)
            assert not reply.has_error(), refusals(self.state(number))
            introductions += read_introductions(JoinReply.read(reply.content).introduction)
        return SumRequest(terms.content, write_introductions(introductions), 1, self.names)

    def charged(self, number: int) -> int:
        """Steps that the site's ledger has charged the run."""
        with StateFolder(self.state(number)).inspect() as ledger:
            return sum((last - first + 1) * steps for first, last, steps in ledger.charged_rounds("r"))


@pytest.fixture
def federation(hospitals: Path, tmp_path: Path) -> Iterator[Federation]:
    config = quick(hospitals, **MASKED)
    made = Federation(config, tmp_path, tuple(simulated_manifest(config).sites))
    for number in range(len(made.names)):
        made.policy(number)
    keys = made.keys()
    for number in range(len(made.names)):
        made.policy(number, peers={**PEERS, "keys": keys})
    yield made


def stated(reply: Message) -> Statement:
    assert not reply.has_error(), reply.error.reason
    return read_statement(json.loads(str(reply.content["site"]["privacy.statement"])))


def refused(reply: Message) -> str:
    assert reply.has_error()
    return str(reply.error.reason)


def test_the_words_of_all_sites_make_a_sum(federation: Federation) -> None:
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
