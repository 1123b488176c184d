"""A patient who withdraws takes part in nothing from the next round on, whatever interrupts the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from flwr.app import Context, RecordDict
from typer.testing import CliRunner

from client import withdrawal
from client.app import app
from client.hospital import Hospital as Place
from client.opt_outs import list_in_force, read_receipt
from client.refusal_log import refusals
from client.release import Refusal
from client.site import Site
from client.site_folder import SiteFolder
from client.withdrawal import Outcome, withdraw
from mmmed.cli import app as command
from mmmed.config import RunConfig
from mmmed.errors import DataError
from privacy.keys import load_key
from privacy.policy import TRAINING
from tests.client.requests import request

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

Configured = Callable[..., RunConfig]


def node(hospital: Hospital) -> Context:
    own = {"site-dir": str(hospital.path)}
    return Context(run_id=1, node_id=1, node_config=own, state=RecordDict(), run_config={})


def opened(hospital: Hospital, config: RunConfig) -> Site:
    place = Place(hospital.path)
    return place.open(config, place.judge(config, TRAINING))


def table(hospital: Hospital) -> pd.DataFrame:
    whole = pd.read_csv(Path(hospital.site["dataset"]) / "data.csv")
    return whole[whole["site"] == hospital.site["where"]["site"]]


def erased(hospital: Hospital, *ids: str, **more: Any) -> Outcome:
    return withdraw(SiteFolder(hospital.path), ids, **more)


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_withdrawal_during_a_run_holds_from_the_next_round_and_shows_nowhere(
    hospital: Hospital, configured: Configured
) -> None:
    """More than half leave, so that the size class falls: the answers' mechanism is still the plan's."""
    config = configured(privacy={"metrics": "none"})
    before = opened(hospital, config)
    first = app(request(config), node(hospital))
    assert not first.has_error(), refusals(hospital.state)
    gone = list(before.patients[: len(before.patients) // 2 + 1])
    outcome = erased(hospital, *(f" {one.upper()}" for one in gone[:-1]), gone[-1])
    assert outcome.added == len(gone) and not outcome.unknown
    after = opened(hospital, config)
    assert set(after.patients) == set(before.patients) - set(gone)
    assert set(after.held_out) == set(before.held_out)
    second = app(request(config, **{"server-round": 2}), node(hospital))
    assert not second.has_error(), refusals(hospital.state)
    said = [dict(reply.content["site"]) for reply in (first, second)]
    for key in (
        "privacy.noise_multiplier",
        "privacy.sampling_rate",
        "privacy.steps",
        "privacy.planned_epsilon",
    ):
        assert said[0][key] == said[1][key]
    again = app(request(config), node(hospital))  # the kept answer of round 1
    assert again.content["site"] == first.content["site"]
    assert [dict(again.content[name]) for name in again.content] == [
        dict(first.content[name]) for name in first.content
    ]
    receipt = read_receipt(outcome.receipt or Path(), load_key(hospital.state / "site.key").public_key())
    (run,) = receipt["runs"]
    assert run["patients"] == len(gone) and run["charged_epsilon"] < run["epsilon"] <= 8
    with SiteFolder(hospital.path).state.inspect() as ledger:
        assert run["epsilon"] == ledger.plans()[0].epsilon  # the charge stays
    written = everything(hospital.state / "withdrawn").decode()
    assert not any(one in written for one in gone)


def test_what_was_decoded_is_erased_and_others_rows_stay(hospital: Hospital, configured: Configured) -> None:
    site = opened(hospital, configured())
    one, other = site.patients[:2]
    (pixels,) = (hospital.state / "images").glob("*.pixels")
    held = pixels.read_bytes()
    size = 2 * 32 * 32
    rows = [held[start : start + size] for start in range(0, len(held), size)]
    mine = int((table(hospital)["patient_id"] == one).sum())
    outcome = erased(hospital, one)
    now = pixels.read_bytes()
    changed = [
        row
        for start, row in zip(range(0, len(held), size), rows, strict=True)
        if now[start : start + size] != row
    ]
    assert 0 < len(changed) <= mine
    assert all(
        now[start : start + size] == bytes(size)
        for start in range(0, len(held), size)
        if held[start : start + size] in changed
    )
    assert f"{len(changed)} decoded rows" in " ".join(outcome.words)
    again = opened(hospital, configured())
    assert one not in again.patients and other in again.patients


def test_repeated_and_unknown_ids(hospital: Hospital, configured: Configured) -> None:
    patient = str(table(hospital)["patient_id"].iloc[0])
    first = erased(hospital, patient, "nobody 17")
    assert (first.added, first.unknown) == (2, ("nobody 17",))
    kept = everything(hospital.state / "withdrawn")
    again = erased(hospital, f"{patient.upper()} ", "NOBODY17")
    assert (again.added, again.before, again.receipt) == (0, 2, None)
    assert everything(hospital.state / "withdrawn") == kept
    with pytest.raises(DataError, match="empty"):
        erased(hospital, "  ")
    with pytest.raises(DataError, match="leave out --erase"):
        erased(hospital, "another", erase=True)
    assert len(list_in_force(SiteFolder(hospital.path))) == 2
    # data that come later: the id is known by then
    later = hospital.path / "later"
    later.mkdir()
    frame = table(hospital).assign(
        image="", patient_id=lambda t: t["patient_id"].replace({patient: "nobody-17", other(t): "Nobody17"})
    )
    frame.to_csv(later / "data.csv", index=False)
    hospital.write_site(dataset=str(later))
    site = opened(hospital, configured(data={"image": ""}))
    everybody = {*site.patients, *site.held_out}
    assert "nobody-17" in everybody and "Nobody17" not in everybody


def other(frame: pd.DataFrame) -> str:
    return str(frame["patient_id"].unique()[1])


def test_a_list_that_was_edited_restored_or_lost_opens_nothing(
    hospital: Hospital, configured: Configured
) -> None:
    patients = table(hospital)["patient_id"].unique()
    erased(hospital, patients[0])
    file = hospital.state / "withdrawn" / "list.json"
    old = file.read_bytes()
    erased(hospital, patients[1])
    new = file.read_bytes()
    for content, match in (
        (old, "older"),
        (new[:-40], "cannot be read"),
        (new.replace(b'"at": "20', b'"at": "19'), "not signed"),
        (None, "gone"),
    ):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with pytest.raises(DataError, match=match):
            list_in_force(SiteFolder(hospital.path))
    reply = app(request(configured()), node(hospital))
    assert reply.has_error() and reply.error.reason == Refusal.DATA
    file.write_bytes(new)
    assert len(list_in_force(SiteFolder(hospital.path))) == 2


def _killed_at(path: Path, patient: str, place: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(withdrawal, place, die)
    withdraw(SiteFolder(path), [patient])


@pytest.mark.parametrize(
    "place, listed", [("save_list", 0), ("nobody_reads", 1), ("forget_features", 1), ("save_receipt", 1)]
)
def test_killed_anywhere_it_is_before_or_after_and_repeating_finishes(
    hospital: Hospital, place: str, listed: int
) -> None:
    patient = str(table(hospital)["patient_id"].iloc[0])
    with SiteFolder(hospital.path).ledger(SiteFolder(hospital.path).policy()):
        pass
    process = multiprocessing.get_context("fork").Process(
        target=_killed_at, args=(hospital.path, patient, place)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    opt_outs = list_in_force(SiteFolder(hospital.path))
    assert len(opt_outs) == listed and (patient in opt_outs) == bool(listed)
    outcome = erased(hospital, *([] if listed else [patient]))
    assert outcome.receipt is not None and read_receipt(outcome.receipt)["withdrawals"] == 1
    assert len(list_in_force(SiteFolder(hospital.path))) == 1


def test_two_at_once_and_one_that_waits_for_a_round(hospital: Hospital) -> None:
    patients = [str(one) for one in table(hospital)["patient_id"].unique()[:2]]
    listed = threading.Event()
    first = threading.Thread(target=erased, args=(hospital, patients[0]), kwargs={"waiting": listed.set})
    second = threading.Thread(target=erased, args=(hospital, patients[1]))
    with Place(hospital.path).in_use():
        first.start()
        assert listed.wait(600)  # on the list while the round goes on
        assert patients[0] in list_in_force(SiteFolder(hospital.path))
        assert not list((hospital.state / "withdrawn").glob("receipt-*"))
        second.start()
    first.join()
    second.join()
    assert len(list_in_force(SiteFolder(hospital.path))) == 2
    assert len(list((hospital.state / "withdrawn").glob("receipt-*"))) == 2


def test_the_command_reads_a_list_says_what_it_did_and_receipts_are_verified(
    hospital: Hospital, tmp_path: Path
) -> None:
    run, patient = CliRunner(), str(table(hospital)["patient_id"].iloc[0])
    ids = tmp_path / "ids.txt"
    ids.write_text(f"\ufeff{patient}\r\n\r\nno\x1b[31mbody\r\n", encoding="utf-8")
    site = ("--site", str(hospital.path))
    assert "nobody has withdrawn" in run.invoke(command, ["site", "withdrawals", *site]).output
    told = run.invoke(command, ["site", "withdraw", "--list", str(ids), *site])
    assert told.exit_code == 0, told.exception
    assert (
        "2 new" in told.output and r"no\x1b[31mbody" in told.output and "no run of this ledger" in told.output
    )
    shown = run.invoke(command, ["site", "withdrawals", *site]).output
    assert "2 withdrawals are in force" in shown and "signed" in shown and "not everything" not in shown
    (receipt,) = (hospital.state / "withdrawn").glob("receipt-*.json")
    public = load_key(hospital.state / "site.key").public_key().public_bytes_raw().hex()
    assert "signed by" in run.invoke(command, ["site", "withdrawals", str(receipt), "--key", public]).output
    receipt.write_text(receipt.read_text().replace('"withdrawals": 2', '"withdrawals": 3'))
    assert isinstance(run.invoke(command, ["site", "withdrawals", str(receipt), *site]).exception, DataError)
