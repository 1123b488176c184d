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

_TITLES = (
    r"Dr|Prof|Mr|Mrs|Ms|Miss|Mister|Herr|Herrn|Frau|Fr|Hr|Sr|Sra|Mme|OA|OÄ|CA|Doctor|Nurse|Schwester|Pfleger"
)
_INTRODUCTIONS = (
    r"Patient(?:in)?(?:\s+name)?\s*:|Name\s*:|Nachname\s*:|Vorname\s*:|Dictated by|Signed by|Reported by|"
    r"Read by|Referred by|Attending\s*:|Radiologist\s*:|Physician\s*:|Arzt\s*:|Ärztin\s*:|Befundet von|"
    r"Diktiert von|Dear|Sehr geehrte[rn]?|Discussed with|Called to|Mother\s*:|Father\s*:|"
    r"Wife\s*:|Husband\s*:|Daughter\s*:|Son\s*:"
)
_CAPITALISED = r"(?:[A-ZÄÖÜÀ-Þ][\w'’-]{1,40}|[A-Z]\.)"
_FULL_NAME = rf"{_CAPITALISED}(?:,?[ -]{_CAPITALISED}){{0,2}}"
_MONTHS = (
    r"Jan(?:uary|uar)?|Jän(?:ner)?|Feb(?:ruary|ruar)?|Mar(?:ch)?|März|Mrz|Apr(?:il)?|May|Mai|June?|Juni|July?|Juli|"
    r"Aug(?:ust)?|Sept?(?:ember)?|O[ck]t(?:ober)?|Nov(?:ember)?|De[cz](?:ember)?"
)
_NUMBER_WORDS = (
    r"MRN|PID|patient\s*(?:id|no|number|nr)|record\s*(?:no|number|#)|account|acct|acc(?:ession)?(?:\s*(?:no|number|#))?|"
    r"case\s*(?:no|number)|Fall(?:nummer|-?Nr)|Pat(?:ienten)?-?(?:ID|Nr)|policy|insurance|member|Versicherten(?:nummer|-?Nr)|"
    r"licen[cs]e|certificate|passport|serial|S/N|SN|device\s*(?:id|no)|lot|VIN|plate|Kennzeichen|study\s*id|order"
)
_RECOGNISERS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("EMAIL", re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    ("URL", re.compile(r"(?:https?://|ftp://|www\.)\S+"
        r"|\b(?:[a-z\d-]{1,63}\.){1,8}(?:com|org|net|edu|gov|info|io|mil|biz|de|at|ch|eu|uk|fr|nl|pl|dk)\b"
        r"(?:[:/]\S*)?", re.I)),
    ("ID", re.compile(r"\b(?:[\da-f]{2}[:-]){5}[\da-f]{2}\b|\b[\da-f]{4}\.[\da-f]{4}\.[\da-f]{4}\b"
        r"|\b[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}\b", re.I)),
    ("IP", re.compile(r"(?<![\w:])(?=[\da-f:]*::|(?:[\da-f]{1,4}:){7})"
        r"[\da-f]{1,4}(?:::?[\da-f]{1,4}){2,7}(?![\w:])", re.I)),
    ("IP", re.compile(r"(?<![\w:])(?=[\da-f]{0,4}:[\da-f:]{0,38}(?![\w:]))(?=[\da-f:]{0,38}::)[\da-f:]{3,39}", re.I)),
    ("ID", re.compile(  # UIDs, IBAN, vehicle identification, German pension insurance, letters among digits
        r"(?<![\w.])\d(?:\.\d{1,30}){5,30}(?![\w.])|\b[A-Z]{2}\d{2}\s?[A-Z\d]{4}(?:\s?\d{4}){2,6}(?:\s?\d{1,4})?\b"
        r"|\b(?=[A-Z]*\d)(?=\d*[A-Z])[A-HJ-NPR-Z\d]{17}\b|\b\d{2}\s?\d{6}\s?[A-Z]\s?\d{3}\b"
        r"|\b(?=(?:[A-Z]{0,9}\d){4})(?=\d{0,20}[A-Z])[A-Z\d]{8,20}\b|\b[A-Z]{2,5}-\d{4}-\d{3,9}\b"
        r"|\b(?=[A-Za-z]{0,60}\d)(?=\d{0,60}[A-Za-z])[A-Za-z\d]{20,62}\b")),
    ("ID", re.compile(  # cards, tax, health and national numbers in groups: US, DE, UK, AU, SE, FI
        r"(?<![\w-])(?:\d{4}(?:[ -]\d{4}){3}|\d{4}[ -]\d{6}[ -]\d{5}|\d{2} \d{3} \d{3} \d{3}|\d{4} \d{5} \d|\d{2}-\d{7}"
        r"|\d{6}(?:\d{2})?[-+]\d{3}[\dA-Z]|\d[A-Z][A-Z\d]\d-?[A-Z][A-Z\d]\d-?[A-Z]{2}\d{2}"
        r"|[A-Z]{2}(?: ?\d{2}){3} ?[A-D])(?![\w-])")),
    ("ID", re.compile(r"(?<![\w-])[A-ZÄÖÜ]{1,3}-[A-Z]{1,2} \d{2,4}[EH]?(?![\w.,]\d|\w)")),  # German number plates
    ("ID", re.compile(r"\b(?:Kennzeichen|(?:licen[cs]e |number )?plate|registration)\b[\s:]{1,3}"
        r"([A-ZÄÖÜ\d]{1,4}[- ]{0,2}"
        r"[A-Z\d]{0,4}[- ]?\d{1,4}[A-Z]{0,3})\b")),
    ("IP", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")),
    ("SSN", re.compile(r"(?<!\d)\d{3}([- ])\d{2}\1\d{4}(?!\d)")),
    (
        "DATE",
        re.compile(
            r"(?<![\d.])(?:\d{1,2}([./-])\s?\d{1,2}\1\s?(?:\d{4}|\d{2})|\d{4}([./-])\d{1,2}\2\d{1,2}|"
            r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d|\.\d)"
            rf"|\b\d{{1,2}}(?:st|nd|rd|th|\.)?(?:\s*(?:of\s+)?|-)(?:{_MONTHS})\b\.?(?:-\d{{2,4}}\b|,?\s*(?:'?\d{{4}}|'\d{{2}}))?"
            rf"|\b(?:{_MONTHS})\b\.?\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s*(?:19|20)\d{{2}})?"
            rf"|\b(?:{_MONTHS})\b\.?,?\s+(?:19|20)\d{{2}}\b"
            r"|(?<![\d/.])(?:0?[1-9]|1[0-2])/(?:19|20)\d{2}(?![\d/])|(?<![\d-])(?:19|20)\d{2}-(?:0[1-9]|1[0-2])(?![\d-])",
            re.I,
        ),
    ),
    ("DATE", re.compile(r"\b(?:on|am|vom|since|seit|until|bis|from|dated|admitted|discharged)\s{1,3}"
        r"((?:0?[1-9]|[12]\d|3[01])[./](?:0?[1-9]|[12]\d|3[01])(?:\.(?!\d)|(?![\d./%]))"
        r"(?!\s*(?:mm|cm|l|kg)\b))", re.I)),
    ("DATE", re.compile(r"(?<=\bborn )(?:in )?(?:19|20)\d{2}\b|(?<=\bgeb\. )(?:19|20)\d{2}\b", re.I)),
    (
        "ID",
        re.compile(
            rf"(?<=\b)(?:{_NUMBER_WORDS})\b\s*(?:[:#.=]|is|Nr\.?|no\.?)?\s*(?=[\w/-]{{0,20}}\d)([\w][\w/-]{{2,}})", re.I
        ),
    ),
    (
        "PHONE",
        re.compile(
            r"(?<![\w.])(?:\+|00)\d{1,3}[\s./-]?(?:\(0\)\s?)?(?:\(0?\d{2,5}\)|\d{2,5})[\s./-]?\d{3,4}(?:[\s./-]?\d{2,5}){0,2}(?![\w.])"
            r"|(?<![\w.])(?:\(0?\d{2,5}\)|0\d{2,5})[\s./-]\s?\d{3,4}(?:[\s./-]?\d{2,5}){1,2}(?![\w.]\d)"
            r"|(?<![\w.])\d{3}[\s.-]\d{3,4}[\s.-]\d{4}(?!\w)"
            r"|(?:\b(?:tel|phone|fax|pager|telefon|mobile?|handy)\b\.?\s*[:#]?\s*)([+\d(][\d\s()./-]{4,}\d)",
            re.I,
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            r"\b[A-Z]{1,2}\d[A-Z\d]? \d(?!ST|ND|RD|TH|MM|CM|ML|MG)[A-Z]{2}\b|\b[A-Z]\d[A-Z] \d[A-Z]\d\b"  # UK, Canada
            r"|\b\d{1,5}\s+(?:[A-Z][\w'-]{0,40}\s{1,3}){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Way|Place|Square)\b\.?"
            r"|\b[A-ZÄÖÜ][\w.-]{0,40}?(?:[Ss]tr(?:\.|aße|asse)|[Ww]eg|[Pp]latz|[Aa]llee|gasse|ring|damm)\s+\d{1,4}\s?[a-z]?\b"
            r"|(?<![\w.,-])(?:D-)?\d{5}\s+[A-ZÄÖÜ][a-zäöüß]+(?:[\s-][A-ZÄÖÜ][a-zäöüß]+)?\b"
            r"|\b[A-Z]{2}\s+\d{5}(?:-\d{4})?\b"
        ),
    ),
    ("AGE", re.compile(r"\b(?:9\d|1[0-2]\d)(?=[\s-]*(?:years?|yrs?|y/?o|year-old|jähr|Jahre)\b|-jähr)", re.I)),
    ("NAME", re.compile(rf"\b(?:{_TITLES})\b\.?\s+(?:(?:med|Dr|Prof|habil|univ)\.?\s+)*({_FULL_NAME})")),
    ("NAME", re.compile(rf"\b(?:{_INTRODUCTIONS})\s*({_FULL_NAME})")),
    ("PLACE", re.compile(r"\b(?:[A-Z][\w'.-]{0,40}\s{1,3}){1,3}(?:Hospital|Medical Cent(?:er|re)|Clinic)\b"
        r"|\b(?:Klinikum|Krankenhaus|Universitätsklinikum)\s+[A-ZÄÖÜ][\w-]+")),
    ("PLACE", re.compile(r"\b(?:[Ll]ives in|[Ll]iving in|[Rr]esides in|[Rr]esid(?:ent|ing) (?:of|in)|[Ww]ohnt in|"
        r"[Ww]ohnhaft in|"
        r"[Bb]orn in|[Gg]eboren in|(?:city|town|village) of)\s+([A-ZÄÖÜ][\w'-]{2,40}(?:[ -][A-ZÄÖÜ][\w'-]{2,40}){0,2})"
        r"|\b([A-Z][a-z]{2,40}) County\b")),
    ("ID", re.compile(r"(?<![\w.,])(?=[A-Z]*\d)(?:[A-Z]{0,4}-?\d{6,})(?![\w]|[.,]\d)")),
)  # fmt: skip

_SPELLINGS = {
    "ä": "(?:ä|ae|a)",
    "ö": "(?:ö|oe|o)",
    "ü": "(?:ü|ue|u)",
    "ß": "(?:ß|ss)",
    "ø": "(?:ø|oe|o)",
    "å": "(?:å|aa|a)",
}
_SEPARATORS = " -'’.,^"


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
        model: EntityModel | None = None,
    ) -> None:
        """
        Args:
            names: known names of the patient and others, as DICOM (``DOE^JANE``) or people write them.
            ids: known ids.
            dates: known dates, as YYYYMMDD or YYYY-MM-DD.
            model: looks for what is left after the known identifiers and the patterns; None uses those alone.
        """
        self._model = model
        known: list[tuple[str, str]] = [("ID", pattern) for value in ids if (pattern := _id_pattern(value))]
        known += [("DATE", pattern) for value in dates if (pattern := _date_pattern(value))]
        known += [("NAME", pattern) for value in names for pattern in _name_patterns(value)]
        known.sort(key=lambda entry: (-len(entry[1]), entry))  # in the same order in every run
        self._known = [(kind, re.compile(pattern, re.I)) for kind, pattern in dict.fromkeys(known)]

    def scrub(self, text: str) -> Scrubbed:
        """Replace every identifier in ``text`` by its kind in brackets."""
        counts: Counter[str] = Counter()
        text = unicodedata.normalize("NFC", text)
        for kind, pattern in (*self._known, *_RECOGNISERS):
            text = pattern.sub(_replacement(kind, counts), text)
        done = [mark.span() for mark in re.finditer(r"\[[A-Z]+\]", text)]
        for start, end, kind in reversed(self._model.spans(text)) if self._model else ():
            if not any(first < end and start < last for first, last in done):
                counts[kind] += 1
                text = f"{text[:start]}[{kind}]{text[end:]}"
        return Scrubbed(re.sub(r"\[NAME\](?:[\s,.-]*\[NAME\])+", "[NAME]", text), counts)


_INTRODUCED = ("ID", "NAME", "PHONE", "PLACE")  # a word before them stays


def _replacement(kind: str, counts: Counter[str]) -> Callable[[re.Match[str]], str]:
    """Replace the last group that took part, which leaves the word that introduced it; else the whole match."""

    def replace(match: re.Match[str]) -> str:
        counts[kind] += 1
        group = match.lastindex if kind in _INTRODUCED and match.lastindex else 0
        start, end = (edge - match.start() for edge in match.span(group))
        return f"{match[0][:start]}[{kind}]{match[0][end:]}"

    return replace


def _name_patterns(name: str) -> list[str]:
    """The whole name in either order with any separators, and each of its parts with an initial before it."""
    parts = [part for part in re.split(r"[\^=,\s]+", name.strip()) if part]
    parts += [
        piece for part in parts for piece in re.split(r"[-'’]", part) if piece != part and len(piece) >= 3
    ]
    long = [
        part
        for part in parts
        if len(part.strip(".")) >= 2 and not re.fullmatch(rf"(?:{_TITLES})\.?", part, re.I)
    ]
    return [rf"(?<!\w)(?:[A-Z]\.\s?)?{_letters(part)}(?:['’]s|s)?(?!\w)" for part in long]


def _letters(word: str) -> str:
    """A pattern for a word however its umlauts, accents, hyphens and apostrophes are written."""
    out = []
    for character in unicodedata.normalize("NFC", word.lower()):
        bare = unicodedata.normalize("NFD", character)[0]
        if character in _SEPARATORS:
            out.append(r"[\s'’.-]?")
        elif character in _SPELLINGS:
            out.append(_SPELLINGS[character])
        else:
            out.append(
                f"[{re.escape(character)}{re.escape(bare)}]" if bare != character else re.escape(character)
            )
    pattern = "".join(out)
    for two, one in (("ae", "ä"), ("oe", "ö"), ("ue", "ü"), ("ss", "ß")):
        pattern = re.sub(rf"(?<![|:(\[]){two}(?![|)\]])", f"(?:{two}|{one})", pattern)
    return pattern


def _id_pattern(value: str) -> str:
    """An id with or without separators and leading zeros; ids of one to three characters are too common."""
    characters = re.sub(r"\W|_", "", value).lstrip("0")
    if len(characters) < 4:
        return ""
    return r"(?<![^\W_])0*" + r"[\s._/-]?".join(map(re.escape, characters)) + r"(?![^\W_])"


def _date_pattern(value: str) -> str:
    """A date as year-month-day, day-month-year or month-day-year with any separators or none."""
    digits = re.sub(r"\D", "", value)
    if len(digits) != 8:
        return ""
    year, month, day = digits[:4], f"0?{int(digits[4:6])}", f"0?{int(digits[6:])}"
    short = rf"(?:{year}|'?{year[2:]})"
    orders = ((short, month, day), (day, month, short), (month, day, short))
    return r"(?<!\d)(?:" + "|".join(r"[\s./-]{0,2}".join(order) for order in orders) + r")(?!\d)"
