"""A language model of the hospital's own that finds names in notes where no rule does.

Any token classification model in a local transformers folder with safetensors weights; none is shipped, since
none with a known origin can be had offline. Its weights and code are trusted no further than its labels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmmed.errors import DataError

_KINDS = (  # what labels of models for de-identification and of general ones are called
    ("NAME", r"PER|PERSON|NAME|FIRST_?NAME|LAST_?NAME|PATIENT|STAFF|HCW|DOCTOR|USERNAME"),
    (
        "PLACE",
        r"LOC|LOCATION|GPE|FAC|ORG|ORGANI[SZ]ATION|HOSP|HOSPITAL|VENDOR|PATORG|CITY|STREET|STATE|COUNTRY|ZIP",
    ),
    ("DATE", r"DATE|DOB|BIRTH_?DATE"),
    ("PHONE", r"PHONE|FAX|TELEPHONE"),
    ("EMAIL", r"EMAIL|E-MAIL"),
    ("ID", r"ID|IDNUM|MEDICALRECORD|MRN|SSN|ACCOUNT|DEVICE|LICENSE|HEALTHPLAN|BIOID"),
)
_HARMLESS = r"O|MISC|AGE|PROFESSION|TIME"  # ages over 89 are found by pattern
_WINDOW, _OVERLAP = 256, 64  # tokens


class EntityModel:
    """Spans of names, places, dates and ids in a text. Raises `DataError` if the folder holds no such model."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        if not (folder / "config.json").is_file():
            raise DataError(
                f"{folder}: no model; expected a transformers folder with config.json and safetensors"
            )
        try:
            model = AutoModelForTokenClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            longest = min(_WINDOW, int(getattr(model.config, "max_position_embeddings", _WINDOW)))
            tokenizer.model_max_length = longest
            self._find: Any = pipeline(
                "token-classification", model=model.eval(), tokenizer=tokenizer, aggregation_strategy="max",
                stride=min(_OVERLAP, longest // 4), device="cpu",
            )  # fmt: skip
        except Exception as error:  # a folder can hold anything
            raise DataError(
                f"{folder}: not a token classification model ({type(error).__name__}: {error})"
            ) from error
        labels = {re.sub(r"^[BILUSE]-", "", str(label)).upper() for label in model.config.id2label.values()}
        self._kinds = {label: _kind(label) for label in labels}
        if not {"NAME"} & set(self._kinds.values()):
            raise DataError(
                f"{folder}: none of its labels {sorted(labels)} is a person's name; take another model"
            )

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, kind) of each entity in order; a label that is not known is an identifier of kind OTHER."""
        found = []
        for one in self._find(text) if text.strip() else ():
            kind = self._kinds.get(str(one["entity_group"]).upper(), "OTHER")
            if kind:
                found.append((int(one["start"]), int(one["end"]), kind))
        return sorted(found)


def _kind(label: str) -> str:
    if re.fullmatch(_HARMLESS, label):
        return ""
    return next((kind for kind, names in _KINDS if re.fullmatch(names, label)), "OTHER")
