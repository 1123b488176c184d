"""Who is one patient: spellings, issuers, other ids, words that are no id, the crosswalk, and who may be two."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, Sequence

from mmmed.errors import ConfigError
from mmmed.ingest.note_matching import Notes
from mmmed.ingest.options import IngestOptions, TableOptions
from mmmed.ingest.people import Identity, People, is_no_id, read_crosswalk, spelled
from mmmed.ingest.rows import study_entries
from mmmed.ingest.scan import Scan
from mmmed.ingest.warnings import several_ids
from tests.mmmed.ingest.test_read_or_refused import KEY, film, read

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
REPORTS = (TableOptions(patient="pid", study="acc", text="note"),)


def units(found: Scan) -> list[str]:
    """The patient of each film as the ledger counts, in the order of accession numbers."""
    ordered = sorted(found.instances, key=lambda one: one.accession)
    return [KEY.patient(found.people.unit(one.patient)) for one in ordered]


def reasons(found: Scan, notes: Notes) -> str:
    return " | ".join(one.reason for one in [*found.skipped, *notes.skipped])


@pytest.mark.parametrize(
    "ids, patients",
    [(["ab12", "AB12", " AB 12"], 1), (["0014629", "14629"], 1), (["ab12 ", "ab13"], 2), (["P01", "P1"], 2),
     (["１２３", "123"], 1), (["100", "1"], 2)],
)  # fmt: skip
def test_ids_that_differ_in_spelling_are_one(ids: list[str], patients: int, tmp_path: Path) -> None:
    for number, one in enumerate(ids):
        film(tmp_path, one, f"A{number}")
    found, _ = read(tmp_path)
    assert len(set(units(found))) == patients
    told = several_ids(found.people, KEY)
    assert ("written in several ways" in " ".join(told)) == (patients == 1)
    assert not any(one.strip() in line for one in ids for line in told)


def test_a_table_that_lost_its_zeros_finds_the_film_and_its_pseudonym_stays(tmp_path: Path) -> None:
    study = film(tmp_path, "0014629").StudyInstanceUID
    for number, accession in enumerate(("", "A1")):
        (tmp_path / f"r{number}.csv").write_text(
            f"pid,acc,note\n14629,{accession},Note {number} of 0014629.\n"
        )
    found, notes = read(tmp_path, tables=REPORTS)
    assert {one: entry.texts for one, entry in notes.studies.items()} == {
        study: ["Note 0 of [ID].", "Note 1 of [ID]."]
    }
    assert not notes.skipped and units(found) == [KEY.patient("0014629")]


@pytest.mark.parametrize(
    "word", ["UNKNOWN", "unknown", "Anonymous", "0000000", "99999999", "N/A", "XXX", "?", "unbekannt", "No ID", "TEST"]
)  # fmt: skip
def test_a_word_for_nobody_is_no_patient(word: str, tmp_path: Path) -> None:
    film(tmp_path, word, PatientName="Adler^Ida")
    film(tmp_path, word, "A2", PatientName="Brandt^Otto")
    (tmp_path / "r.csv").write_text(f"pid,acc,note\n{word},,Large effusion.\n")
    found, notes = read(tmp_path, tables=REPORTS)
    assert not found.instances and not notes.studies and is_no_id(word)
    assert len(found.skipped) == 2 and "no patient id" in found.skipped[0].reason
    assert "without a patient id" in notes.skipped[0].reason


def test_ids_are_no_words() -> None:
    assert not any(map(is_no_id, ("1", "P1", "MHH111111", "UNKNOWN-17", "90", "NA12", "TESTA7")))
    assert spelled(" 00 12") == "12" and spelled("000") == "0" and spelled("00a1") == "00A1"


def test_one_id_of_two_issuers_is_two_patients(tmp_path: Path) -> None:
    film(tmp_path, "77", IssuerOfPatientID="North")
    film(tmp_path, "77", "A2", IssuerOfPatientID="South")
    (tmp_path / "r.csv").write_text("pid,acc,note\n77,,Of whom?\n77,A2,Large effusion.\n")
    found, notes = read(tmp_path, tables=REPORTS)
    assert len(set(units(found))) == 2
    assert [entry.text for entry in notes.studies.values()] == ["Large effusion."]
    assert "that of several issuers" in notes.skipped[0].reason
    film(tmp_path, "77", "A3")
    found, notes = read(tmp_path, tables=REPORTS)
    assert len(found.instances) == 2 and "without its issuer" in reasons(found, notes)


def test_one_issuer_here_and_none_there_is_one_patient(tmp_path: Path) -> None:
    film(tmp_path, "77", IssuerOfPatientID="North ")
    film(tmp_path, "77", "A2", IssuerOfPatientID="NORTH")
    film(tmp_path, "77", "A3")
    assert set(units(read(tmp_path)[0])) == {KEY.patient("77")}


def other_ids(ds: Dataset, *ids: tuple[str, str]) -> None:
    items = []
    for one, issuer in ids:
        item = Dataset()
        item.PatientID, item.IssuerOfPatientID = one, issuer
        items.append(item)
    ds.OtherPatientIDsSequence = Sequence(items)


def test_other_ids_of_a_header_make_one_patient(tmp_path: Path) -> None:
    film(tmp_path, "P1", "A1")
    film(tmp_path, "P2", "A2", OtherPatientIDs=["P1", "UNKNOWN"])
    film(tmp_path, "P3", "A3", OtherPatientIDs="UNKNOWN")
    film(tmp_path, ["P4", "P5"], "A4")  # type: ignore[arg-type]
    film(tmp_path, "P5", "A5")
    item = Dataset()
    item.PatientID = "P6"
    film(tmp_path, "P6", "A6")
    film(tmp_path, "P7", "A7", OtherPatientIDsSequence=Sequence([item]))
    found, _ = read(tmp_path)
    one, two, three, four, five, six, seven = units(found)
    assert one == two and four == five and six == seven and len({one, three, four, six}) == 4
    assert "3 patients go by several ids" in several_ids(found.people, KEY)[0]


def test_a_resource_with_two_ids_makes_one_patient_of_those_that_films_have(tmp_path: Path) -> None:
    film(tmp_path, "P1", "A1")
    film(tmp_path, "P2", "A2")
    film(tmp_path, "P3", "A3")
    family = '{"value": "INSURANCE1"}'
    for name, ids in (("a", '{"value": "P1"}, {"value": "P2"}'), ("b", '{"value": "P3"}')):
        (tmp_path / f"{name}.json").write_text(
            f'{{"resourceType": "Patient", "id": "{name}", "identifier": [{ids}, {family}]}}'
        )
    one, two, three = units(read(tmp_path)[0])
    assert one == two != three


@pytest.mark.parametrize("birth, patients", [("19500101", 1), ("", 2), ("19000101", 2)])
def test_who_may_be_one_is_one_for_the_ledger_alone(birth: str, patients: int, tmp_path: Path) -> None:
    film(tmp_path, "P1", "A1", PatientName="Müller^Jürgen", PatientBirthDate=birth)
    film(tmp_path, "P2", "A2", PatientName="MÜLLER^Jürgen", PatientBirthDate=birth)
    film(tmp_path, "P3", "A3", PatientName="Müller^Anna", PatientBirthDate=birth)
    (tmp_path / "r.csv").write_text("pid,acc,note\nP2,,Large effusion.\n")
    found, notes = read(tmp_path, tables=REPORTS)
    assert len(set(units(found)[:2])) == patients and len(set(units(found))) == patients + 1
    [study] = [one.study for one in found.instances if one.accession == "A2"]
    assert list(notes.studies) == [study]
    told = " ".join(several_ids(found.people, KEY))
    assert ("1 pairs of ids have one name and birth date" in told) == (patients == 1)
    entries = list(study_entries([], found, notes, KEY, IngestOptions(site="north")))
    assert [entry.shared["patient_id"] for entry in entries] == [units(found)[1]]


def test_the_crosswalk_decides(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        film(tmp_path, f"P{number}", f"A{number}", PatientName="Doe^Jane", PatientBirthDate="19500101")
    path = tmp_path / "ids.crosswalk"
    path.write_text("id,person\nP1,Erika\np 2,Erika\nP3,Anna\n")
    one, two, three = units(read(tmp_path, crosswalk=str(path))[0])
    assert one == two == KEY.patient("Erika") and three == KEY.patient("Anna")
    path.write_text("id,person\nP1,Erika\np1,Anna\n")
    with pytest.raises(ConfigError, match="row 2: another row gives its id another person"):
        read_crosswalk(path)
    path.write_text("id;person\nP1;Erika\n")
    with pytest.raises(ConfigError, match="lacks a column"):
        read_crosswalk(path)
    path.write_text("id,issuer,person\nP1,North,Erika\n")
    assert read_crosswalk(path) == {Identity("P1", "North"): "Erika"}


def test_a_study_under_two_patients_is_refused_with_its_reports(tmp_path: Path) -> None:
    first = film(tmp_path, "P1", "A1")
    film(tmp_path, "P2", "A2", StudyInstanceUID=first.StudyInstanceUID)
    film(tmp_path, "P3", "A3")
    (tmp_path / "r.csv").write_text("pid,acc,note\nP1,A1,Large effusion.\nP3,A3,No effusion.\n")
    found, notes = read(tmp_path, tables=REPORTS)
    assert [one.patient for one in found.instances] == ["P3"]
    assert [entry.text for entry in notes.studies.values()] == ["No effusion."]
    assert reasons(found, notes).count("under several patients") == 3
    path = tmp_path / "ids.crosswalk"
    path.write_text("id,person\nP1,Erika\nP2,Erika\n")
    assert len(set(units(read(tmp_path, crosswalk=str(path))[0]))) == 2


def test_an_accession_number_of_two_patients_is_told_apart_by_the_patient(tmp_path: Path) -> None:
    first = film(tmp_path / "a", "1001", "77")
    second = film(tmp_path / "b", "2002", "77")
    (tmp_path / "r.csv").write_text("pid,acc,note\n1001,77,Large effusion.\n2002,77,No effusion.\n")
    _, notes = read(tmp_path, tables=REPORTS)
    assert {study: entry.text for study, entry in notes.studies.items()} == {
        first.StudyInstanceUID: "Large effusion.", second.StudyInstanceUID: "No effusion.",
    }  # fmt: skip


def test_names_that_a_number_tells_apart_are_no_suspects() -> None:
    people = People()
    for number in (1, 2):
        people.meet(Identity(f"P{number}"), name=f"Study^Case {number}", birth="19500101")
    people.settle({})
    assert people.suspects == [] and people.unit("P1") != people.unit("P2")
