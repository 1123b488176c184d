"""A patient withdraws: from the next round on their records take part in nothing at this site.

First the list (`client.opt_outs`), which is in force as soon as it is written; then, once the round that runs has
ended, what the site has made of their records is erased; last a signed receipt. Whatever ends it in between, they are
on the list or not, and the same command again does what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock

from client.opt_outs import (
    Entry,
    OptOuts,
    empty_list,
    list_in_force,
    newest_receipt,
    read_receipt,
    save_list,
    save_receipt,
)
from client.records_lock import nobody_reads
from client.site import patient_digests
from client.site_folder import SiteFolder
from mmmed.data.cells import text_of
from mmmed.data.features import forget_features
from mmmed.data.manifest import read_table
from mmmed.data.pixel_cache import Cache
from mmmed.deidentify.keys import SiteKey, key_of, spelled
from mmmed.errors import DataError
from mmmed.paths import feature_cache
from privacy.accounting import shown as rounded_up
from privacy.keys import load_key

_START = next(OptOuts().heads())


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        added: withdrawals that are new on the list.
        before: ids that were on it.
        unknown: ids, as given, of nobody in the data set of today; they stay on the list.
        receipt: file of the receipt; None if there was nothing left to do.
        words: what the receipt says.
    """

    added: int
    before: int
    unknown: tuple[str, ...]
    receipt: Path | None
    words: tuple[str, ...]


def withdraw(
    site: SiteFolder,
    ids: Sequence[str],
    *,
    key_file: Path | None = None,
    erase: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Outcome:
    """Put patients on the site's opt-out list, erase what was made of their records, and sign a receipt.

    Safe to repeat, and by several at once: one waits for the other.

    Args:
        site: the site's folder.
        ids: of patients, as the data set names them or, with `key_file`, as the hospital does; none to finish what was
            interrupted.
        key_file: the key of `mmmed site ingest`, by which the hospital's ids are found.
        erase: also erase their rows and files from a data set that ingest has made.
        waiting: is called before it waits for the round that runs.

    Raises:
        DataError: an id is empty, or cannot be looked up; the list, the table or the key file cannot be read.
        PolicyError, LedgerError, SigningKeyError: the site has no key yet and no policy, or they cannot be trusted.
    """
    if erase:
        from mmmed.ingest.removal import check_removable

        check_removable(site.dataset)
    state = site.state
    if not state.holds_ledger():
        with site.ledger(site.policy()):  # the site's first start makes its key
            pass
    key = load_key(state.key)
    state.withdrawn.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(state.withdrawn / "lock"):
        opt_outs = _on_list(site, key)
        table = _Table(site)
        names = [_names(one, table, opt_outs, site, key_file) for one in ids]
        fresh, before = _fresh(names, opt_outs)
        if fresh:
            opt_outs = opt_outs.added(fresh)
            save_list(site, opt_outs, key)  # from here on nobody opens their records
        unknown = tuple(one for one, known in zip(ids, names, strict=True) if not known.present)
        newest = newest_receipt(state.withdrawn)
        pending = opt_outs.after(read_receipt(newest, key.public_key())["list"] if newest else _START)
        held = [patient for patient in table.patients if patient in opt_outs]
        if not pending and not (erase and held):
            return Outcome(len(fresh), before, unknown, None, ())
        with nobody_reads(state.records_lock, waiting):
            body = _erase(site, table, opt_outs, pending, held if erase else [])
        told = {name for known in names for name in known.told} | set(body["_patients"])
        receipt = _receipt(site, key, opt_outs, pending, body, told)
        path = save_receipt(site, receipt, key)
    return Outcome(len(fresh), before, unknown, path, tuple(receipt["words"]))


class _Table:
    """The site's table of studies as it is today; of nobody if the site has none yet."""

    def __init__(self, site: SiteFolder) -> None:
        path, column = site.dataset / site.config.table, site.config.patient
        self.root = site.dataset
        self.frame = read_table(path) if path.exists() else None
        if self.frame is not None and column not in self.frame:
            raise DataError(f"{path}: no column {column!r}; say in site.toml which names the patient")
        self._names = None if self.frame is None else self.frame[column].map(text_of)
        self.patients = [] if self._names is None else sorted(set(self._names) - {""})

    def rows(self, patients: Sequence[str]) -> int:
        """How many rows these patients have."""
        return 0 if self._names is None else int(self._names.isin(set(patients)).sum())

    def files(self, patients: Sequence[str]) -> list[Path]:
        """The files that cells of these patients' rows name."""
        if self.frame is None or self._names is None:
            return []
        cells = self.frame[self._names.isin(set(patients))].map(text_of).to_numpy().ravel()
        paths = (
            self.root / cell
            for cell in dict.fromkeys(cells)
            if cell and len(cell) < 1024 and "\0" not in cell
        )
        return [path for path in paths if _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a note, say, whose text is too long for a name
        return False


@dataclass(frozen=True)
class _Names:
    """By what names one id may stand: digests for the list, the names that the ledger may know, whether it is there."""

    who: tuple[str, ...]
    told: tuple[str, ...]
    present: bool


def _on_list(site: SiteFolder, key: Ed25519PrivateKey) -> OptOuts:
    found = list_in_force(site)
    return found if found.secret else empty_list(site, key)


def _names(given: str, table: _Table, opt_outs: OptOuts, site: SiteFolder, key_file: Path | None) -> _Names:
    """All that an id may be called, in the data set of today or in one that is ingested later."""
    one = given.strip()
    if not spelled(one):
        raise DataError("an id is empty: each line and each argument names one patient")
    told = [one]
    direct = [patient for patient in table.patients if spelled(patient) == spelled(one)]
    if key_file is not None and key_file.is_file():
        key = SiteKey.load_or_create(key_file)
        if key_of(site.dataset):
            key.mark(site.dataset)  # raises if another key named the patients
        told += [key.patient(one), key.handle(one)]
    elif not direct and key_of(site.dataset):
        raise DataError(
            f"{site.dataset} names its patients by pseudonyms, and not all ids given are among them. If they are the "
            "hospital's own ids, say --key FILE with the key of `mmmed site ingest`"
        )
    digests = {opt_outs.digest(name) for name in told}
    found = [patient for patient in table.patients if not digests.isdisjoint(opt_outs.names(patient))]
    who = digests | {opt_outs.digest(patient) for patient in found}
    return _Names(tuple(sorted(who)), (*told, *found), bool(found))


def _fresh(names: Sequence[_Names], opt_outs: OptOuts) -> tuple[list[Entry], int]:
    """The entries that the list lacks, and how many ids it has."""
    known = {one for entry in opt_outs.entries for one in entry.who}
    now, fresh, before = _now(), [], 0
    for one in names:
        if known.issuperset(one.who):
            before += 1
        else:
            fresh.append(Entry(one.who, now))
            known |= set(one.who)
    return fresh, before


def _erase(
    site: SiteFolder, table: _Table, opt_outs: OptOuts, pending: Sequence[Entry], removed: Sequence[str]
) -> dict[str, Any]:
    """Erase what the site has made of records; returns what was done, in the receipt's words for it."""
    only = OptOuts(tuple(pending), opt_outs.secret, opt_outs.handles)
    patients = [patient for patient in table.patients if patient in only]
    unmatched = sum(
        not any(not set(entry.who).isdisjoint(opt_outs.names(patient)) for patient in patients)
        for entry in pending
    )
    decoded = Cache(site.state.images).erase_files(table.files([*patients, *removed]))
    features = forget_features(feature_cache()) if pending or removed else 0
    done: dict[str, Any] = {
        "_patients": patients,
        "withdrawals": len(pending),
        "patients_in_data_set": len(patients),
        "not_in_data_set": unmatched,
        "decoded_files_erased": decoded,
        "feature_files_erased": features,
        "data_set": None,
    }
    if removed:
        from mmmed.ingest.removal import remove_patients

        gone = remove_patients(site.dataset, set(removed))
        left = _Table(site)
        done["data_set"] = {
            "patients": len(removed),
            "studies_erased": gone.studies,
            "files_erased": gone.files,
            "rows_left": left.rows(removed),
        }
    return done


def _receipt(
    site: SiteFolder,
    key: Ed25519PrivateKey,
    opt_outs: OptOuts,
    pending: Sequence[Entry],
    done: dict[str, Any],
    told: set[str],
) -> dict[str, Any]:
    """What the receipt says, but for key and signature."""
    *_, head = opt_outs.heads()
    runs = []
    with site.state.inspect() as ledger:
        for plan, count in ledger.took_part(patient_digests(key, told)) if told else ():
            if count == 0 and not done["not_in_data_set"]:
                continue
            runs.append(
                {
                    "run": plan.run_id,
                    "purpose": plan.purpose,
                    "patients": count or None,
                    "epsilon": plan.epsilon,
                    "charged_epsilon": ledger.spent(plan.delta, run_id=plan.run_id),
                    "delta": plan.delta,
                    "noise_shared": bool(plan.shared),
                }
            )
        limit = {"epsilon": ledger.limit.epsilon, "delta": ledger.limit.delta}
    body = {name: value for name, value in done.items() if not name.startswith("_")}
    body |= {"site": site.config.name, "at": _now(), "list": head, "runs": runs, "limit": limit}
    return body | {"words": _words(body)}


def _words(body: dict[str, Any]) -> list[str]:
    """The receipt in sentences."""
    words = [
        f"Site {body['site']}, {body['at']}. Withdrawals that came into force: {body['withdrawals']}. "
        f"Patients of the data set who are left out by them: {body['patients_in_data_set']}. "
        "Withdrawals of nobody in it, which hold for a data set that is ingested later: "
        f"{body['not_in_data_set']}.",
        "From the next round on no record of theirs is read for training, evaluation or tuning.",
        f"Erased: {body['decoded_files_erased']} decoded rows of their files, and everybody's features of frozen "
        f"encoders ({body['feature_files_erased']} files), which are computed anew without them.",
    ]
    if (removed := body["data_set"]) is not None:
        words.append(
            f"Erased from the ingested data set: {removed['studies_erased']} studies and {removed['files_erased']} "
            f"files of {removed['patients']} withdrawn patients; {removed['rows_left']} rows of theirs are left."
        )
    else:
        words.append("Not erased: the rows and files of the data set; they are left out when it is opened.")
    words += [
        "Not erased: the hospital's own records, backups and disk blocks that held what was erased.",
        "Kept: the ledger's charges, and answers that were given. An answer is an update with noise that has left the "
        "site, or may have; asked again it must be the same.",
        "A model that was trained before is not changed by this. What it can tell of any one patient stays bounded "
        "(add or remove one patient):",
    ]
    for run in body["runs"]:
        part = (
            f"{run['patients']} of them took part"
            if run["patients"]
            else "whether they took part is not known"
        )
        shared = (
            "; its noise was shared between sites, see the run's privacy report"
            if run["noise_shared"]
            else ""
        )
        words.append(
            f"  {run['purpose']} of run {run['run']}: {part}; epsilon {rounded_up(run['epsilon'])} for the whole run "
            f"at delta {run['delta']:g}, {rounded_up(run['charged_epsilon'])} for the steps charged until now{shared}."
        )
    if not body["runs"]:
        words.append("  none: no run of this ledger has charged them.")
    limit = body["limit"]
    words.append(f"All runs together: the limit of epsilon {limit['epsilon']:g} at delta {limit['delta']:g}.")
    return words


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
