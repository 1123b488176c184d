"""Patients of an ingested data set withdraw under the hospital's own ids, and can be erased from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from client.opt_outs import list_in_force
from client.site_folder import SiteFolder
from client.withdrawal import withdraw
from mmmed.config import DataConfig
from mmmed.data.manifest import read_manifest
from mmmed.deidentify import SiteKey
from mmmed.errors import DataError
from mmmed.ingest import IngestOptions, ingest, removal
from mmmed.ingest.options import TableOptions
from mmmed.tasks import Classification
from tests.mmmed.dicom.files import dicom, save

if TYPE_CHECKING:
    from simulations.loopback.hospital import Hospital

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
SECRET = bytes(range(32))
KEY = SiteKey(SECRET)
OPTIONS = IngestOptions(
    site="north",
    workers=1,
    tables=(TableOptions(patient="pid", study="acc", text="note", keep=("finding",)),),
)


def _sources(folder: Path, *patients: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, patient in enumerate(patients):
        image = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        ds = dicom(image, PatientID=patient, AccessionNumber=f"A{number}")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}.1", f"1.2.3.{number}.2"
        save(ds, folder / f"{number}.dcm")
    rows = [
        f"{patient},A{number},Lungs of case {number}.,{number % 2}" for number, patient in enumerate(patients)
    ]
    (folder / "notes.csv").write_text("\n".join(["pid,acc,note,finding", *rows]) + "\n")


def _listed(hospital: Hospital) -> set[str]:
    """The pseudonyms that the site leaves out."""
    site = SiteFolder(hospital.path)
    opt_outs = list_in_force(site)
    return {one for one in pd.read_parquet(site.dataset / "data.parquet")["patient_id"] if one in opt_outs}


def test_the_hospitals_own_ids_whatever_their_spelling_and_what_is_ingested_later(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sources(tmp_path / "in", "0014629", "AB 12", "C3", "D4")
    out, site = tmp_path / "data", SiteFolder(hospital.path)
    ingest([tmp_path / "in"], out, key=KEY, options=OPTIONS)
    hospital.write_site(dataset=str(out), table="data.parquet", where={})
    key = tmp_path / "site-data.key"
    with pytest.raises(DataError, match="--key"):
        withdraw(site, ["14629"], key_file=key)
    key.write_text(bytes(reversed(SECRET)).hex())
    with pytest.raises(DataError, match="another site key"):
        withdraw(site, ["14629"], key_file=key)
    assert len(list_in_force(site)) == 0
    key.write_text(SECRET.hex())
    outcome = withdraw(site, ["14629", "ab12", "E 5"], key_file=key)
    assert outcome.unknown == ("E 5",)
    gone = {KEY.patient("0014629"), KEY.patient("AB 12")}
    assert _listed(hospital) == gone
    assert withdraw(site, [KEY.patient("C3")]).added == 1  # a pseudonym needs no key
    task = Classification(label="finding")
    left = read_manifest(out, DataConfig(table="data.parquet", text="text"), task, print, list_in_force(site))
    assert set(left.records["patient"]) == {KEY.patient("D4")}

    # erased: interrupted before the files go, then done
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(removal, "remove_strangers", die)
    with pytest.raises(KeyboardInterrupt):
        withdraw(site, [], erase=True)
    assert set(pd.read_parquet(out / "data.parquet")["patient_id"]) == {KEY.patient("D4")}
    monkeypatch.undo()
    # whoever ingests again has the rows again, and the patient who was unknown: all are left out
    _sources(tmp_path / "in", "0014629", "AB 12", "C3", "D4", "e5")
    ingest([tmp_path / "in"], out, key=KEY, options=OPTIONS)
    assert _listed(hospital) == {*gone, KEY.patient("C3"), KEY.patient("e5")}
    outcome = withdraw(site, [], erase=True)
    assert "0 rows of theirs are left" in " ".join(outcome.words)
    table = pd.read_parquet(out / "data.parquet")
    assert set(table["patient_id"]) == {KEY.patient("D4")}
    assert {f"images/{file.name}" for file in (out / "images").iterdir()} == set(table["image"])
    kept = b"".join(file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert not any(one.encode() in kept for one in gone)
    assert withdraw(site, [], erase=True).receipt is None
