"""`mmmed privacy policy ...` as a privacy officer types it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from mmmed.cli.policy import app
from privacy.accounting import DpSgdEvent
from privacy.errors import PolicyError, SigningKeyError
from privacy.keys import load_or_create_key, load_public_key
from privacy.ledger import Budget, Ledger, dataset_identity
from privacy.policy import load_policy, open_ledger


def run(*arguments: str | Path, typed: str = "\n") -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's folder with a signed policy."""
    (tmp_path / "site.toml").write_text('version = 1\nname = "west"\n')
    assert run("key", tmp_path / "officer.key").exit_code == 0
    assert run("init", tmp_path / "site-policy.toml", "--site", "west").exit_code == 0
    assert run("sign", tmp_path, "--key", tmp_path / "officer.key").exit_code == 0
    return tmp_path


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "site-policy.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_from_key_to_a_policy_in_force(folder: Path) -> None:
    assert (folder / "officer.key").stat().st_mode & 0o077 == 0
    shown, checked = run("show", folder), run("check", folder)
    assert checked.exit_code == 0 and "in force" in checked.output
    assert "site west" in shown.output and "each patient, for ever: epsilon 8 at delta 1e-05" in shown.output
    assert "signed by the privacy officer\n" in checked.output
    digest = hashlib.sha256((folder / "site-policy.toml").read_bytes()).hexdigest()
    assert digest in shown.output and digest in checked.output


def test_the_policy_of_the_folder_that_one_is_in_need_not_be_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert (
        run("show").exit_code == run("sign", "--key", "officer.key").exit_code == run("check").exit_code == 0
    )
    assert "nowhere: no such file" in str(run("check", "nowhere").exception)


def test_nothing_is_overwritten(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert isinstance(run("key", folder / "officer.key").exception, SigningKeyError)
    assert isinstance(run("init", folder / "site-policy.toml").exception, PolicyError)
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_passphrase_guards_the_officers_key(tmp_path: Path) -> None:
    assert run("key", tmp_path / "a.key", typed="one\ntwo\n").exception is not None
    assert not (tmp_path / "a.key").exists()
    assert run("key", tmp_path / "a.key", typed="one\none\n").exit_code == 0
    assert run("init", tmp_path / "site-policy.toml").exit_code == 0
    assert isinstance(run("sign", tmp_path, "--key", tmp_path / "a.key", typed="two\n").exception, Exception)
    assert run("sign", tmp_path, "--key", tmp_path / "a.key", typed="one\n").exit_code == 0
    load_policy(tmp_path / "site-policy.toml", load_public_key(tmp_path / "a.pub"))


def test_an_edited_or_ended_policy_is_not_in_force(folder: Path) -> None:
    edit(folder, "epsilon = 4.0", "epsilon = 5.0")
    assert "was edited" in str(run("check", folder).exception)
    path = folder / "site-policy.toml"
    lines = ["expires = 2020-01-01" if "expires" in line else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    assert run("sign", folder, "--key", folder / "officer.key").exit_code == 0
    checked = run("check", folder)
    assert checked.exit_code == 1 and "NOT in force: it ended on 2020-01-01" in checked.output


def test_what_a_new_policy_widens_is_said_before_the_site_refuses_it(folder: Path) -> None:
    (folder / "state").mkdir()
    site = load_or_create_key(folder / "state" / "site.key")
    officer = load_public_key(folder / "officer.pub")
    open_ledger(
        folder / "state" / "ledger.db", site, load_policy(folder / "site-policy.toml", officer)
    ).close()
    assert run("check", folder).exit_code == 0
    edit(folder, 'trainable = ["full", ', 'trainable = ["everything", ')
    assert run("sign", folder, "--key", folder / "officer.key").exit_code == 0
    checked = run("check", folder)
    assert checked.exit_code == 1 and "run.trainable would be widened" in checked.output
    assert run("key", folder / "second-officer.key").exit_code == 0
    two = ("--key", folder / "officer.key", "--second", folder / "second-officer.key")
    assert run("sign", folder, *two).exit_code == 0
    checked = run("check", folder)
    assert checked.exit_code == 0 and "and a second officer" in checked.output


def test_a_delta_too_large_for_the_patients_is_warned_of_without_saying_how_many_they_are(
    folder: Path,
) -> None:
    assert "warning" not in run("check", folder).output
    edit(folder, "min_patients = 200          # to train", "min_patients = 10001        # to train")
    assert run("sign", folder, "--key", folder / "officer.key").exit_code == 0
    checked = run("check", folder)
    for rule in ("limit.delta", "period.delta", "run.delta"):
        assert f"warning: {rule} is 1e-05" in checked.output
    assert checked.exit_code == 0 and "in force" in checked.output
    edit(folder, "min_patients = 10001", "min_patients = 10000")
    assert run("sign", folder, "--key", folder / "officer.key").exit_code == 0
    assert "warning" not in run("check", folder).output
    (folder / "state").mkdir()
    key = load_or_create_key(folder / "state" / "site.key")
    with Ledger.open(folder / "state" / "ledger.db", key, limit=Budget(8.0, 1e-5)) as ledger:
        people = dataset_identity(map(str, range(10_007)), b"k" * 32)
        ledger.plan(people, "run", DpSgdEvent(5.0, 0.1, 10), 1e-5, 1.0)
    checked = run("check", folder)
    assert "warning: run.delta is 1e-05" in checked.output and "10007" not in checked.output


@pytest.mark.parametrize("name", ["officer.key", "site-policy.toml", "officer.pub", "site.toml"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    command = (
        ("sign", folder, "--key", folder / "officer.key") if name == "officer.key" else ("check", folder)
    )
    assert name in str(run(*command).exception)


def test_a_key_of_another_kind_signs_nothing(folder: Path) -> None:
    (folder / "officer.key").write_text((folder / "officer.pub").read_text())
    assert isinstance(run("sign", folder, "--key", folder / "officer.key").exception, SigningKeyError)
