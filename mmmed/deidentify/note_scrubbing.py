"""Identifiers in free text replaced by what they were: ``[NAME]``, ``[DATE]``, ``[ID]`` ...

First what is known of the patient (header, table) in every common spelling, then patterns for the
identifiers of HIPAA Safe Harbor (45 CFR 164.514(b)(2)(i)) that have a form: dates, telephone, e-mail, numbers
after words such as "MRN", addresses, web addresses, ages over 89, and names after a title or a word such as
"Patient:". A name that is neither known nor introduced by such a word is found by a model of the hospital's own
alone (`entities.EntityModel`). English and German.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmmed.deidentify.entities import EntityModel
from mmmed.deidentify.known import date_pattern, id_pattern, name_patterns
from mmmed.deidentify.recognisers import INTRODUCED, RECOGNISERS


@dataclass(frozen=True)
class Scrubbed:
    """A note without identifiers, and how many spans of which kind were replaced."""

    text: str
    counts: Counter[str]


class Scrubber:
    """Replaces the identifiers of one patient, and everything that looks like an identifier."""

    def __init__(
        self,
        *,
        names: Iterable[str] = (),
        ids: Iterable[str] = (),
        dates: Iterable[str] = (),
        places: Iterable[str] = (),
        model: EntityModel | None = None,
    ) -> None:
        """
        Args:
            names: known names of the patient and others, as DICOM (``DOE^JANE``) or people write them.
            ids: known ids.
            dates: known dates, as YYYYMMDD or YYYY-MM-DD.
            places: known towns.
            model: looks for what is left after the known identifiers and the patterns; None uses those alone.
        """
        self._model = model
        known = [("ID", pattern, re.I) for value in ids if (pattern := id_pattern(value))]
        known += [("DATE", pattern, re.I) for value in dates if (pattern := date_pattern(value))]
        known += [("NAME", *pattern) for value in names for pattern in name_patterns(value)]
        known += [("PLACE", *pattern) for value in places for pattern in name_patterns(value)]
        known.sort(key=lambda entry: (-len(entry[1]), entry))  # in the same order in every run
        self._known = [(kind, re.compile(pattern, flags)) for kind, pattern, flags in dict.fromkeys(known)]

    def scrub(self, text: str) -> Scrubbed:
        """Replace every identifier in ``text`` by its kind in brackets."""
        counts: Counter[str] = Counter()
        text = unicodedata.normalize("NFC", text)
        for kind, pattern in (*self._known, *RECOGNISERS):
            text = pattern.sub(_replacement(kind, counts), text)
        done = [mark.span() for mark in re.finditer(r"\[[A-Z]+\]", text)]
        for start, end, kind in reversed(self._model.spans(text)) if self._model else ():
            if not any(first < end and start < last for first, last in done):
                counts[kind] += 1
                text = f"{text[:start]}[{kind}]{text[end:]}"
        return Scrubbed(re.sub(r"\[NAME\](?:[\s,.-]*\[NAME\])+", "[NAME]", text), counts)


def _replacement(kind: str, counts: Counter[str]) -> Callable[[re.Match[str]], str]:
    """Replace the last group that took part, which leaves the word that introduced it; else the whole match."""

    def replace(match: re.Match[str]) -> str:
        counts[kind] += 1
        group = match.lastindex if kind in INTRODUCED and match.lastindex else 0
        start, end = (edge - match.start() for edge in match.span(group))
        return f"{match[0][:start]}[{kind}]{match[0][end:]}"

    return replace
