"""A run of masked sums over a SuperLink: policies that name each other, keys of the run, steps, a signed report."""

from __future__ import annotations

import json

from privacy.report import unfinished, verify_report
from simulations.loopback.processes import mmmed, wait_for
from tests.deployment.live import TwoHospitals

MASKED = (
    "federation.release=secure-steps",
    "federation.rounds=3",
    "federation.min_sites=2",
    "federation.honest=1",
    "training.optimizer=sgd",
    "training.local_epochs=4",
)


def test_sites_that_name_each_other_sum_under_masks(federation: TwoHospitals) -> None:
    refused = federation.begin(*MASKED)
    wait_for(refused.ended, "the run to fail: neither policy says with whom it may share its noise")
    assert refused.rounds() == [] and "failed" in refused.state().status
    keys = {}
    for site in federation.sites:
        name, key = mmmed("privacy", "policy", "peer", site.path, cwd=site.path)[1].strip().split(" = ")
        keys[name] = json.loads(key)
        assert "peers" in (site.folder.state / "site.log").read_text()
    assert set(keys) == {"north", "south"}
    for site in federation.sites:
        site.folder.sign(
            by_two=True, peers={"honest": 2, "colluders": 0, "least_cohort": 2, "repeats": 6, "keys": keys}
        )
    run = federation.begin(*MASKED).wait()
    assert [record["changed"] for record in run.rounds()] == [True] * 3
    federation.check_ledgers(run)
    report = json.loads((run.folder / "report" / "privacy.json").read_text())
    assert verify_report(report, keys) == [] == unfinished(report)
    assert report["shared"]["honest"] == 1 and report["shared"]["colluders"] == 1
    for site in federation.sites:
        assert site.charged(run.run_id) == 3
        (kept,) = {path.name for path in site.folder.state.glob("secure_sums/*/*/*")} & {"secret", "closed"}
        assert kept == "closed"
