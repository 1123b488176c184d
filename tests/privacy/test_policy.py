"""No request and no later policy makes a site exceed what its officers signed; every refusal names its rule."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import PolicyError, PolicyRefusal
from privacy.ledger import Budget, Ledger
from privacy.policy import RunRequest, SitePolicy, adopt_policy, load_policy, sign_policy

TEXT = """
version = 1
site = "north"
expires = 2027-12-31
unit = "patient"
adjacency = "add_remove"

[limit]
epsilon = 8.0
delta = 1e-5

[period]
days = 365
epsilon = 6.0
delta = 1e-5

[run]
epsilon = 4.0
delta = 1e-5
min_noise_multiplier = 0.5
min_patients = 100
max_records_per_patient = 4
models = ["resnet18", "tiny"]
trainable = ["lora"]
apps = ["sha256:aa"]
columns = ["finding", "image", "text"]

[evaluation]
min_patients = 200

[purposes]
training = 8.0
tuning = 1.0

[metrics]
auroc = "private"
loss = "rounded"
"""
NOW = datetime.datetime(2027, 6, 1, tzinfo=datetime.UTC).timestamp()
REQUEST = RunRequest(
    purpose="training",
    unit="patient",
    adjacency="add_remove",
    epsilon=4.0,
    delta=1e-5,
    records_per_patient=4,
    model="tiny",
    trainable="lora",
    app="sha256:aa",
    columns=frozenset({"finding", "image"}),
    metrics={"auroc": "private", "loss": "rounded"},
)


def _changed(text: str, **replacements: str) -> str:
    """The text with the first line of each of these keys replaced."""
    lines = []
    for line in text.splitlines():
        name = line.split(" = ")[0]
        lines.append(f"{name} = {replacements.pop(name)}" if name in replacements else line)
    assert not replacements
    return "\n".join(lines)


def test_a_run_within_every_rule_is_allowed() -> None:
    policy = SitePolicy.parse(TEXT)
    policy.check(REQUEST, NOW)
    policy.check(dataclasses.replace(REQUEST, metrics={"auroc": "none", "age": "none"}), NOW)
    policy.check(dataclasses.replace(REQUEST, adjacency="replace_one"), NOW)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"purpose": "sale"}, "purposes"),
        ({"unit": "record"}, "unit"),
        ({"unit": "ward"}, "unit"),
        ({"adjacency": "zero_out"}, "adjacency"),
        ({"epsilon": 4.01}, "run.epsilon"),
        ({"epsilon": float("nan")}, "run.epsilon"),
        ({"epsilon": float("inf")}, "run.epsilon"),
        ({"epsilon": -1.0}, "run.epsilon"),
        ({"delta": 1.1e-5}, "run.delta"),
        ({"records_per_patient": 5}, "run.max_records_per_patient"),
        ({"model": "gpt"}, "run.models"),
        ({"model": "gpt", "former_model": "gpt+tiny"}, "run.models"),
        ({"model": "", "former_model": None}, "run.models"),
        ({"trainable": "full"}, "run.trainable"),
        ({"app": "sha256:ab"}, "run.apps"),
        ({"columns": frozenset({"finding", "name"})}, "run.columns"),
        ({"metrics": {"auroc": "rounded"}}, "metrics"),
        ({"metrics": {"age": "private"}}, "metrics"),
        ({"metrics": {"loss": "raw"}}, "metrics"),
    ],
)
def test_every_refusal_names_its_rule(change: dict[str, object], rule: str) -> None:
    with pytest.raises(PolicyRefusal) as refusal:
        SitePolicy.parse(TEXT).check(dataclasses.replace(REQUEST, **change), NOW)
    assert refusal.value.rule == rule
    assert str(refusal.value).startswith(rule)


def test_a_model_is_allowed_by_either_of_its_names_and_refused_by_its_own() -> None:
    policy = SitePolicy.parse(TEXT)
    for names in (("tiny", None), ("tiny", "old"), ("new", "tiny")):
        policy.check(dataclasses.replace(REQUEST, model=names[0], former_model=names[1]), NOW)
    with pytest.raises(PolicyRefusal, match="'new'"):
        policy.check(dataclasses.replace(REQUEST, model="new", former_model="old"), NOW)


@pytest.mark.parametrize(
    ("purpose", "noise", "patients", "rule"),
    [
        ("training", 0.49, 100, "run.min_noise_multiplier"),
        ("training", float("nan"), 100, "run.min_noise_multiplier"),
        ("training", 0.5, 99, "run.min_patients"),
        ("evaluation", 0.5, 199, "evaluation.min_patients"),
        ("evaluation", 0.4, 200, "run.min_noise_multiplier"),
    ],
)
def test_what_the_site_worked_out_is_judged_too(purpose: str, noise: float, patients: int, rule: str) -> None:
    policy = SitePolicy.parse(TEXT)
    policy.check_plan("training", 0.5, 100)
    policy.check_plan("evaluation", 0.5, 200)
    with pytest.raises(PolicyRefusal) as refusal:
        policy.check_plan(purpose, noise, patients)
    assert refusal.value.rule == rule


def test_a_policy_ends_with_its_day() -> None:
    policy = SitePolicy.parse(TEXT)
    last = datetime.datetime(2027, 12, 31, 23, 59, tzinfo=datetime.UTC).timestamp()
    policy.check(REQUEST, last)
    with pytest.raises(PolicyRefusal, match="expires"):
        policy.check(REQUEST, last + 120)


def test_a_stricter_relation_or_unit_is_enforced() -> None:
    policy = SitePolicy.parse(_changed(TEXT, adjacency='"replace_one"', unit='"study"'))
    policy.check(dataclasses.replace(REQUEST, adjacency="replace_one"), NOW)
    with pytest.raises(PolicyRefusal, match="adjacency"):
        policy.check(REQUEST, NOW)


def test_purpose_and_period_are_parts_of_the_limit() -> None:
    policy = SitePolicy.parse(TEXT)
    purpose, period = policy.sublimits("tuning", NOW)
    assert (purpose.name, purpose.budget, purpose.purpose) == ("purposes.tuning", Budget(1.0, 1e-5), "tuning")
    assert (period.budget, period.since) == (Budget(6.0, 1e-5), NOW - 365 * 86_400)
    assert SitePolicy.parse(_changed(TEXT, tuning="100")).sublimits("tuning", NOW)[0].budget == policy.limit
    with pytest.raises(PolicyRefusal, match="purposes"):
        policy.sublimits("sale", NOW)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("not toml", "TOML"),
        (TEXT.replace("version = 1", "version = 2"), "version"),
        (TEXT.replace('unit = "patient"', ""), "unit"),
        (TEXT + "\n[extra]\n", "extra"),
        (TEXT.replace("min_patients = 100", "min_patients = 100\nmax_rounds = 3"), "max_rounds"),
        (_changed(TEXT, unit='"ward"'), "unit"),
        (_changed(TEXT, expires='"soon"'), "expires"),
        (_changed(TEXT, expires="2027-12-31T00:00:00Z"), "expires"),
        (_changed(TEXT, min_patients="0"), "min_patients"),
        (_changed(TEXT, min_patients="true"), "min_patients"),
        (_changed(TEXT, min_noise_multiplier="-1"), "min_noise_multiplier"),
        (_changed(TEXT, models='"tiny"'), "models"),
        (_changed(TEXT, apps='[""]'), "apps"),
        (_changed(TEXT, auroc='"public"'), "auroc"),
        (_changed(TEXT, tuning="inf"), "tuning"),
        (TEXT.replace("delta = 1e-5", "delta = 1.0"), "delta"),
        (TEXT.replace("epsilon = 8.0", "epsilon = nan"), "epsilon"),
    ],
)
def test_a_file_that_does_not_state_everything_is_refused(text: str, name: str) -> None:
    with pytest.raises(PolicyError, match=name):
        SitePolicy.parse(text)


NAMES = st.frozensets(st.sampled_from(["a", "b", "c"]), max_size=3)
RULES = st.sampled_from(["none", "private", "rounded"])
UNITS = st.sampled_from(["patient", "study", "record"])
RELATIONS = st.sampled_from(["replace_one", "add_remove"])
LEVELS = st.sampled_from([0.5, 1.0, 2.0])
POLICIES = st.builds(
    SitePolicy,
    site=st.just("north"),
    expires=st.sampled_from([datetime.date(2027, 1, 1), datetime.date(2028, 1, 1)]),
    unit=UNITS,
    adjacency=RELATIONS,
    limit=st.builds(Budget, LEVELS, st.just(1e-5)),
    period_days=LEVELS,
    period=st.builds(Budget, LEVELS, st.just(1e-5)),
    run=st.builds(Budget, LEVELS, st.sampled_from([1e-5, 1e-6])),
    min_noise_multiplier=LEVELS,
    min_patients=st.integers(1, 3),
    max_records_per_patient=st.integers(1, 3),
    models=NAMES,
    trainable=NAMES,
    apps=NAMES,
    columns=NAMES,
    min_evaluation_patients=st.integers(1, 3),
    purposes=st.dictionaries(st.sampled_from(["a", "b"]), LEVELS),
    metrics=st.dictionaries(st.sampled_from(["a", "b"]), RULES),
    patients=st.none() | st.integers(1, 3),
)
REQUESTS = st.builds(
    RunRequest,
    purpose=st.sampled_from(["a", "b"]),
    unit=UNITS,
    adjacency=RELATIONS,
    epsilon=LEVELS,
    delta=st.sampled_from([1e-5, 1e-6]),
    records_per_patient=st.integers(1, 3),
    model=st.sampled_from(["a", "b", "c"]),
    trainable=st.sampled_from(["a", "b", "c"]),
    app=st.sampled_from(["a", "b", "c"]),
    columns=NAMES,
    metrics=st.dictionaries(st.sampled_from(["a", "b", "c"]), RULES),
    former_model=st.sampled_from([None, "a", "b", "c"]),
)


def _allows(policy: SitePolicy, request: RunRequest, noise: float, patients: int) -> bool:
    try:
        policy.check(request, NOW)
        policy.check_plan("training", noise, patients)
        policy.check_plan("evaluation", noise, patients)
        policy.sublimits(request.purpose, NOW)
    except PolicyRefusal:
        return False
    return True


PERMISSIVE = SitePolicy(
    site="north",
    expires=datetime.date(2028, 1, 1),
    unit="record",
    adjacency="add_remove",
    limit=Budget(2.0, 1e-5),
    period_days=1.0,
    period=Budget(2.0, 1e-5),
    run=Budget(2.0, 1e-5),
    min_noise_multiplier=0.5,
    min_patients=1,
    max_records_per_patient=3,
    models=frozenset("abc"),
    trainable=frozenset("abc"),
    apps=frozenset("abc"),
    columns=frozenset("abc"),
    min_evaluation_patients=1,
    purposes={"a": 2.0, "b": 2.0},
    metrics={"a": "rounded", "b": "rounded", "c": "rounded"},
)
CHANGES = st.sets(st.sampled_from([field.name for field in dataclasses.fields(SitePolicy)]), max_size=2)


def _partly(changed: SitePolicy, fields: set[str]) -> SitePolicy:
    return dataclasses.replace(PERMISSIVE, **{name: getattr(changed, name) for name in fields})


@settings(max_examples=400, deadline=None)
@given(
    old=POLICIES,
    new=POLICIES,
    request_=REQUESTS,
    worked_out=st.tuples(LEVELS, st.integers(1, 3)),
    in_old=CHANGES,
    in_new=CHANGES,
)
def test_whatever_a_successor_newly_allows_it_was_widened_for(
    old: SitePolicy,
    new: SitePolicy,
    request_: RunRequest,
    worked_out: tuple[float, int],
    in_old: set[str],
    in_new: set[str],
) -> None:
    before, after = _partly(old, in_old), _partly(new, in_new)
    if _allows(after, request_, *worked_out) and not _allows(before, request_, *worked_out):
        assert before.widened_by(after)


@pytest.mark.parametrize(
    ("wider", "rule"),
    [
        ({"site": '"south"'}, "site"),
        ({"expires": "2028-01-01"}, "expires"),
        ({"unit": '"study"'}, "unit"),
        ({"min_noise_multiplier": "0.4"}, "run.min_noise_multiplier"),
        ({"days": "364"}, "period.days"),
        ({"columns": '["finding", "image", "text", "age"]'}, "run.columns"),
        ({"max_records_per_patient": "5"}, "run.max_records_per_patient"),
        ({"models": '["resnet18", "tiny", "other"]'}, "run.models"),
        ({"trainable": '["lora", "full"]'}, "run.trainable"),
        ({"apps": '["sha256:bb"]'}, "run.apps"),
        ({"tuning": "1.1"}, "purposes"),
        ({"auroc": '"rounded"'}, "metrics"),
    ],
)
def test_widening_any_rule_is_seen(wider: dict[str, str], rule: str) -> None:
    old, new = SitePolicy.parse(TEXT), SitePolicy.parse(_changed(TEXT, **wider))
    assert old.widened_by(new) == (rule,)
    assert new.widened_by(old) == (() if rule not in ("site", "run.apps") else (rule,))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site-policy.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def officer() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def second() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def test_a_signed_policy_is_read_back(
    file: Path, officer: Ed25519PrivateKey, second: Ed25519PrivateKey
) -> None:
    sign_policy(file, officer)
    assert load_policy(file, officer.public_key()).policy == SitePolicy.parse(TEXT)
    assert not load_policy(file, officer.public_key()).countersigned
    sign_policy(file, officer, second)
    assert load_policy(file, officer.public_key(), second.public_key()).countersigned


def test_a_policy_without_its_signatures_is_refused(
    file: Path, officer: Ed25519PrivateKey, second: Ed25519PrivateKey
) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(file, officer.public_key())
    signed = sign_policy(file, second)
    with pytest.raises(PolicyError, match="not signed by the privacy officer"):
        load_policy(file, officer.public_key())
    sign_policy(file, officer)
    file.write_text(TEXT.replace("4.0", "9.0"))
    with pytest.raises(PolicyError, match="was edited"):
        load_policy(file, officer.public_key())
    for content in ("", "[]", '{"officer": 3}', '{"officer": "zz"}', "{}"):
        signed.write_text(content)
        with pytest.raises(PolicyError):
            load_policy(file, officer.public_key())


def test_a_second_signature_must_hold_and_be_anothers(
    file: Path, officer: Ed25519PrivateKey, second: Ed25519PrivateKey
) -> None:
    with pytest.raises(PolicyError, match="second"):
        sign_policy(file, officer, officer)
    signed = sign_policy(file, officer)
    twice = json.loads(signed.read_text())
    signed.write_text(json.dumps({**twice, "second": twice["officer"]}))
    for known in (None, second.public_key(), officer.public_key()):
        with pytest.raises(PolicyError, match="second"):
            load_policy(file, officer.public_key(), known)
    signed = sign_policy(file, officer, second)
    signatures = json.loads(signed.read_text())
    signed.write_text(json.dumps({"officer": signatures["second"], "second": signatures["officer"]}))
    with pytest.raises(PolicyError):
        load_policy(file, officer.public_key(), second.public_key())


def test_an_unreadable_policy_is_not_signed(file: Path, officer: Ed25519PrivateKey) -> None:
    file.write_text("version = 1")
    with pytest.raises(PolicyError):
        sign_policy(file, officer)
    assert not file.with_name("site-policy.toml.sig").exists()


def test_the_ledger_takes_tighter_policies_and_wider_ones_from_two_officers(
    file: Path, tmp_path: Path, officer: Ed25519PrivateKey, second: Ed25519PrivateKey
) -> None:
    def adopt(ledger: Ledger, text: str, by_two: bool) -> SitePolicy:
        file.write_text(text)
        sign_policy(file, officer, second if by_two else None)
        return adopt_policy(ledger, load_policy(file, officer.public_key(), second.public_key()))

    site = Ed25519PrivateKey.generate()
    path = tmp_path / "ledger.db"
    wider_limit = TEXT.replace("epsilon = 8.0", "epsilon = 9.0")
    with Ledger.open(path, site, limit=Budget(8.0, 1e-5)) as ledger:
        with pytest.raises(PolicyRefusal, match="limit"):
            adopt(ledger, wider_limit, by_two=False)
        adopt(ledger, TEXT, by_two=False)
        head = ledger.head
        adopt(ledger, TEXT, by_two=False)
        assert ledger.head == head
        adopt(ledger, _changed(TEXT, min_patients="200"), by_two=False)
        with pytest.raises(PolicyRefusal, match=r"run\.min_patients"):
            adopt(ledger, TEXT, by_two=False)
        with pytest.raises(PolicyRefusal, match=r"limit\.epsilon"):
            adopt(ledger, wider_limit, by_two=False)
        assert ledger.limit == Budget(8.0, 1e-5)
        adopt(ledger, wider_limit, by_two=True)
        assert ledger.limit == Budget(9.0, 1e-5)
    with Ledger.open(path, site, limit=Budget(9.0, 1e-5)) as ledger:
        assert SitePolicy.parse(ledger.policy or "") == SitePolicy.parse(wider_limit)
        ledger.verify()
