"""Labels from text: wrapped lines, abbreviations, headings, denials and doubt, in English and German."""

from __future__ import annotations

from pathlib import Path

import pytest
import regex

from mmmed.ingest.options import IngestOptions, LabelOptions
from mmmed.ingest.sections import Certainty, finding, has_section, select_sections, sentences
from tests.mmmed.ingest.test_read_or_refused import film, read

FINDING = regex.compile("effusion|erguss|pneumothorax|pneumoni", regex.I)

STATED = [
    "There is an effusion, not seen on the prior study.", "Kein Infiltrat nach Drainage, Resterguss links.",
    "There is no change in the effusion.", "No pneumothorax, small left effusion.",
    "Not only atelectasis but an effusion.",
    "No consolidation; there is a moderate effusion.", "No fever but pneumonia.", "Effusion partially resolved.",
    "No fracture. Effusion left.",
    "Apart from an effusion no abnormality.", "Effusion without fracture.", "No doubt about pneumonia.",
    "Gram negative pneumonia.",
    "Keine Befundänderung des Ergusses.", "Kein Infiltrat, aber ein Erguss links.",
    "Keine Größenzunahme des Pleuraergusses.",
    "Der Erguss hat nicht zugenommen.", "Kein Pneumothorax li. Erguss re.",
    "Kein Infiltrat bei bekanntem Pleuraerguss.", "Erguss ohne Stauung.",
]  # fmt: skip
DENIED = [
    "Pneumothorax: keiner.",
    "No focal consolidation, pleural effusion, or pneumothorax.", "Effusion is not seen.",
    "The effusion has resolved.", "Effusion: none",
    "Neither effusion nor edema.", "The lungs are free of effusion.", "Denies pneumonia.",
    "Effusion or pneumothorax are not identified.",
    "A pneumothorax cannot be seen.", "Pneumonia was ruled out.", "No suspected effusion.", "Pleuraerguss: nein",
    "Ein Erguss liegt nicht vor.",
    "Kein Nachweis eines path. Pleuraergusses.", "Kein Hinweis auf Stauung, Erguss oder Infiltrat.",
    "Weder Erguss noch Stauung.",
    "Ein Erguss ist nicht nachweisbar.", "Pneumothorax ausgeschlossen.",
    "Kein Infiltrat im re. Unterlappen, kein Erguss.",
]  # fmt: skip
OPEN = [
    "Effusion cannot be excluded.", "Possible effusion.", "Effusion?", "Suspicious for pneumonia.",
    "Opacity may represent effusion.",
    "Cannot rule out pneumonia.", "Rule out effusion.", "Pneumonia is suspected.", "Erguss nicht auszuschließen.",
    "V.a. Pleuraerguss.",
    "Fraglicher Erguss.", "Verdacht auf Pneumonie.", "Ein Erguss kann nicht ausgeschlossen werden.",
    "Pneumonie nicht sicher auszuschließen.",
]  # fmt: skip


@pytest.mark.parametrize(
    "text, said",
    [*((one, Certainty.STATED) for one in STATED), *((one, Certainty.DENIED) for one in DENIED),
     *((one, Certainty.OPEN) for one in OPEN), ("Heart normal.", Certainty.DENIED), ("", Certainty.DENIED)],
)  # fmt: skip
def test_what_a_sentence_says(text: str, said: Certainty) -> None:
    assert finding(text, FINDING) is said


@pytest.mark.parametrize(
    "text, said",
    [("There is no focal consolidation, and there is no\n pleural effusion or pneumothorax.", 0),
     ("No evidence of\npneumothorax.", 0),
     ("Lungs are clear without\neffusion.", 0), ("Kein Nachweis eines path. Pleuraergusses.", 0),
     ("Kein Hinweis auf einen\nPneumothorax.", 0),
     ("THERE IS NO FOCAL CONSOLIDATION OR\nEFFUSION SEEN ON THIS EXAMINATION.\nHEART NORMAL.", 0),
     ("Kein Erguss\nPneumothorax links", 2),
     ("- No effusion\n- Pneumothorax on the left", 2), ("No fracture.\nEffusion.", 2), ("No\r\n  effusion", 0)],
)  # fmt: skip
def test_lines_that_were_wrapped_are_one_sentence(text: str, said: int) -> None:
    assert finding(text, FINDING) == said


def test_abbreviations_end_no_sentence() -> None:
    text = "Befund von Dr. Maier z. B. 3.5 cm. Herz ggf. groß! Ok? Ende"
    assert list(sentences(text)) == ["Befund von Dr. Maier z. B. 3.5 cm.", "Herz ggf. groß!", "Ok?", "Ende"]


@pytest.mark.parametrize(
    "heading",
    ["IMPRESSION:", "FINDINGS AND IMPRESSION:", "Impression/Plan:", "ZUSAMMENFASSENDE BEURTEILUNG:", "Epikrise:",
     "CONCLUSIE:", "Conclusion :",
     "**IMPRESSION:**", "**Impression**:", "1. IMPRESSION:", "IMPRESSION -", "Impression", "IMPRESSION\n",
     "Befund und Beurteilung:", "## Impression\n",
     "Radiologist's impression:", "[IMPRESSION]", "Final Diagnosis:", "Fazit:", "Assessment and Plan:",
     "<b>Impression</b>:", "Beurteilung (CT Thorax):"],
)  # fmt: skip
def test_headings_of_the_conclusion_are_known(heading: str) -> None:
    report = f"FINDINGS: heart normal.\n{heading} Large effusion."
    assert "effusion" not in select_sections(report, ("findings", "other", "history", "technique"))
    assert "arge effusion." in select_sections(report, ("impression",)) and has_section(
        report, ("impression",)
    )


@pytest.mark.parametrize(
    "uncertain, labels", [("empty", [1, 0, None, None]), ("positive", [1, 0, None, 1]), ("negative", [1, 0, None, 0])]
)  # fmt: skip
def test_a_label_is_empty_where_its_section_is_not_found_or_doubt_is(
    uncertain: str, labels: list[int | None], tmp_path: Path
) -> None:
    notes = [
        "IMPRESSION: Effusion.",
        "IMPRESSION: No effusion.",
        "FINDINGS: Effusion.",
        "IMPRESSION: Possible effusion.",
    ]
    for number, note in enumerate(notes):
        film(tmp_path, f"P{number}", f"A{number}")
        (tmp_path / f"A{number}.txt").write_text(note)
    rule = LabelOptions(text="effusion", sections=("impression",), uncertain=uncertain)  # type: ignore[arg-type]
    found, said = read(tmp_path, labels={"effusion": rule})
    by_study = {one.study: one.accession for one in found.instances}
    got = {by_study[study]: entry.values.get("effusion") for study, entry in said.studies.items()}
    assert [got[f"A{number}"] for number in range(4)] == labels
    assert sorted(said.unusable["effusion"].values()) == [1, 1]
    assert IngestOptions(site="a", labels={"x": LabelOptions(text="y")}).labels["x"].uncertain == "empty"
