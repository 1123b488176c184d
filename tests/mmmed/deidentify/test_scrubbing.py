"""Identifiers of every kind planted in notes, and a model that finds names where no rule does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from mmmed.deidentify import SiteKey
from mmmed.deidentify.entities import EntityModel
from mmmed.deidentify.note_scrubbing import Scrubber
from mmmed.deidentify.places import towns_in
from mmmed.errors import DataError
from mmmed.ingest import ingest, load_options
from simulations.bench.deidentify import measure_notes
from simulations.bench.planted import planted_notes
from tests.mmmed.deidentify.introduced import ORDINARY, introduced, survivors
from tests.mmmed.deidentify.whereabouts import APART, DEVELOPED, STAYS, found


def test_every_kind_of_planted_identifier_is_found_and_the_rest_left() -> None:
    notes = list(planted_notes(seed=0, count=260))
    tallies = measure_notes(notes)
    assert len(tallies) == 16 and {tally.recall for tally in tallies.values()} == {1.0}
    assert min(tally.precision for tally in tallies.values()) > 0.9
    for note, _, _ in notes:
        text = Scrubber().scrub(note).text
        for clinical in ("3.5 x 2.1 cm", "95 %", "T4 N2 M0, stage 1/2", "10 days ago"):
            assert (clinical in text) == (clinical in note)


@pytest.mark.parametrize(
    "kind, aim", [("name", 0.95), ("date", 0.95), ("phone", 0.95), ("id", 0.95), ("street", 0.8)]
)
def test_what_a_title_a_label_or_its_form_introduces_is_found(kind: str, aim: float) -> None:
    scrubber = Scrubber()
    left = [survivors(kind, must, scrubber.scrub(note).text) for note, _, must in introduced(0, 46, kind)]
    assert len(left) == 46 and 1 - sum(left) / len(left) >= aim


@pytest.mark.parametrize("notes", [DEVELOPED, APART])
def test_towns_and_institutions_that_something_introduces_are_found(notes: list[tuple[str, str]]) -> None:
    assert found(notes, lambda note: Scrubber().scrub(note).text) == []


def test_words_that_stand_where_a_town_might_stay() -> None:
    assert Scrubber().scrub(STAYS).text == STAYS


@pytest.mark.parametrize(
    "address, towns",
    [("Klinikum Rabenau", {"Rabenau"}), ("UNIKLINIKUM SARNBURG, RADIOLOGIE", {"Sarnburg"}), ("", set()),
     ("Hauptstraße 5\r\n34567 Brunnkirchen", {"Brunnkirchen"}), ("Chest Center, Imaging", set())],
)  # fmt: skip
def test_towns_that_a_header_names(address: str, towns: set[str]) -> None:
    assert towns_in(address) == towns


def test_other_words_stay() -> None:
    assert Scrubber().scrub(ORDINARY).text == ORDINARY


@pytest.mark.parametrize(
    "name, note, expected",
    [("May^Rose", "Opacity may represent effusion. Rose colored sputum.", None),
     ("May^Rose", "Seen: Rose May, with Ms. May.", "Seen: [NAME], with Ms. [NAME]."),
     ("Stone^Grant", "Kidney stone seen. Will grant follow up.", None), ("No^Minsu",
     "There is no effusion. No pneumothorax.", None),
     ("No^Minsu", "No, Minsu has an effusion.", "[NAME] has an effusion."), ("Long^Left",
     "Long segment, left lower lobe.", None),
     ("Trauma^Male", "28 year old male after trauma.", None), ("Klein^Peter", "Kleiner Erguss, klein. Herr Klein.",
     "Kleiner Erguss, klein. Herr [NAME]."), ("von der Heide^Anna", "Zustand von der Lunge. Frau von der Heide.",
     "Zustand von der Lunge. Frau [NAME]."), ("O'Brien^Sean", "Obrien, O Brien, O’Brien", "[NAME]"),
     ("M?ller^J?rgen", "Müller, Jürgen stabil", "[NAME] stabil"), ("Li^Wei", "Li Wei. milli, li", "[NAME]. milli, li"),
     ("Yamada^Tarou=山田^太郎=やまだ^たろう", "患者山田太郎さんは軽快。山田 太郎", "患者[NAME]さんは軽快。[NAME]"),
     ("Kim^Younghee=김^영희", "환자 김영희는 호전됨. 김 영희 님.", "환자 [NAME]는 호전됨. [NAME] 님."),
     ("王^伟", "患者王伟，胸腔积液。王先生，王水", "患者[NAME]，胸腔积液。[NAME]先生，王水"),
     ("王小明", "王小明，小明", "[NAME]，[NAME]")],
)  # fmt: skip
def test_a_known_name_is_found_and_the_word_that_it_is_stays(
    name: str, note: str, expected: str | None
) -> None:
    assert Scrubber(names=[name]).scrub(note).text == (expected or note)


def test_a_station_of_a_common_name_blanks_nothing() -> None:
    note = "Chest pain in the emergency department."
    assert Scrubber(ids=["CHEST", "Emergency"]).scrub(note).text == note
    assert (
        Scrubber(ids=["CHEST01"], places=["Springfield"]).scrub("CHEST01, Springfield").text
        == "[ID], [PLACE]"
    )


def test_open_notes_lose_nothing_but_dates(medical_data: Path) -> None:
    notes = pd.read_csv(medical_data / "cxr_covid_open" / "data.csv")["text"].dropna().unique()
    replaced = sum((Scrubber().scrub(note).counts for note in notes), Counter[str]())
    assert len(notes) > 200 and set(replaced) <= {"DATE", "PLACE"} and replaced["DATE"] <= 5
    assert replaced["PLACE"] <= 1  # "traveling to Macau"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, trained here, to which "zander" and "quill" are persons and all else is not."""
    folder = tmp_path_factory.mktemp("model")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "zander",
        "quill",
        "saw",
        "the",
        "chest",
        "film",
        ".",
        "[",
        "]",
        "name",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, id2label={0: "O", 1: "B-PER"}, label2id={"O": 0, "B-PER": 1},
        hidden_dropout_prob=0.0,
    )  # fmt: skip
    net = BertForTokenClassification(config)
    step = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        ids = torch.randint(1, len(words), (16, 20))
        loss = net(input_ids=ids, labels=((ids == 4) | (ids == 5)).long()).loss
        step.zero_grad()
        loss.backward()
        step.step()
    net.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_a_model_finds_names_that_no_rule_does(model: Path) -> None:
    note = "Zander saw the chest film. Dr. Quill saw the film."
    assert "Zander" in Scrubber().scrub(note).text
    scrubbed = Scrubber(model=EntityModel(model)).scrub(note)
    assert (
        scrubbed.text == "[NAME] saw the chest film. Dr. [NAME] saw the film."
        and scrubbed.counts["NAME"] == 2
    )
    assert Scrubber(model=EntityModel(model)).scrub("").text == ""
    long = Scrubber(model=EntityModel(model)).scrub(
        "the chest film . " * 60 + "Zander saw " + "the film . " * 60
    )
    assert "Zander" not in long.text and long.counts["NAME"] == 1  # a note longer than the model's window


def test_ingest_asks_the_model_of_the_site(model: Path, tmp_path: Path) -> None:
    """As a hospital engineer types it: the name that no header, title or pattern tells is found by the model alone."""
    (tmp_path / "notes.csv").write_text("pid,acc,note\nMHH1,A1,Zander saw the chest film. MHH1 too\n")
    tables = '[[tables]]\npatient = "pid"\nstudy = "acc"\ntext = "note"\n'
    texts = {}
    for name, line in (("with", f'name_model = "{model}"\n'), ("without", "")):
        (tmp_path / "site.toml").write_text(f'site = "north"\n{line}{tables}')
        options = load_options(tmp_path / "site.toml")
        report = ingest([tmp_path / "notes.csv"], tmp_path / name, key=SiteKey(bytes(32)), options=options)
        texts[name] = pd.read_parquet(report.table)["text"][0]
        assert report.replaced["NAME"] == (name == "with") and report.replaced["ID"] == 1
    assert texts == {
        "with": "[NAME] saw the chest film. [ID] too", "without": "Zander saw the chest film. [ID] too",
    }  # fmt: skip
    assert not any(
        b"zander" in path.read_bytes().lower() for path in (tmp_path / "with").rglob("*") if path.is_file()
    )
    (tmp_path / "site.toml").write_text(f'site = "north"\nname_model = "{tmp_path}/absent"\n{tables}')
    with pytest.raises(DataError, match="absent: no model"):
        ingest(
            [tmp_path / "notes.csv"], tmp_path / "other", key=SiteKey(bytes(32)),
            options=load_options(tmp_path / "site.toml"),
        )  # fmt: skip
    assert not (tmp_path / "other" / "data.parquet").exists()


def test_folders_that_hold_no_such_model_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no model"):
        EntityModel(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="not a token classification model"):
        EntityModel(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    for file in model.iterdir():
        text = file.read_bytes()
        (other / file.name).write_bytes(
            text.replace(b"B-PER", b"B-DRG") if file.name == "config.json" else text
        )
    with pytest.raises(DataError, match=r"no.* is a person's name"):
        EntityModel(other)
