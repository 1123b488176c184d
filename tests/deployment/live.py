"""What must hold of a federation after whatever happened to it."""

from __future__ import annotations

from pathlib import Path

from mmmed.pki.certificates import create_key, make_request
from simulations.loopback.coordinator import RunHandle
from simulations.loopback.federation import Federation
from simulations.loopback.undisturbed import equals_undisturbed

LONG = "training.local_epochs=15"  # a round of seconds, so that it can be disturbed
CHEAP = "privacy.target_epsilon=1"


class TwoHospitals(Federation):
    """North and south, and the keys of sites "probe", "other" and "gone" that tests play themselves."""

    def __init__(self, home: Path, hospitals: Path) -> None:
        guests = [home / f"{name}.request" for name in ("probe", "other", "gone")]
        for request in guests:
            request.write_bytes(make_request(create_key(request.with_suffix(".key")), request.stem))
        super().__init__(home, hospitals, {"north": "harbour", "south": "northgate"}, guests)
        self.north, self.south = self.sites

    def check(self, run: RunHandle, rounds: int) -> None:
        """No round is lost, both sites are in each, nobody is charged less than it ran, the report says what was
        spent, and the model is that of an undisturbed run."""
        assert [(r["round"], r["changed"]) for r in run.rounds()] == [(n, True) for n in range(1, rounds + 1)]
        for record in run.rounds():
            answered = sorted(line["site"] for line in record["train"] if "refused" not in line)
            assert answered == ["north", "south"], record
        self.check_ledgers(run)
        assert equals_undisturbed(run, self.sites)

    def check_ledgers(self, run: RunHandle) -> None:
        """Each ledger holds at least what its site says it ran, the report no less epsilon than the ledger."""
        for site in self.sites:
            stated = sum(
                int(line["released"]["privacy.steps"])
                for record in run.rounds()
                for line in record["train"]
                if line["site"] == site.name and "refused" not in line
            )
            assert site.charged(run.run_id) >= stated > 0
            assert run.reported()[site.name] >= site.spent(run.run_id) * (1 - 1e-9)
            assert site.audit()  # its chain holds
