"""Sections of a report, its sentences, and labels read from them.

A conclusion must be kept out of the input when it is the label: `select_sections` keeps what is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

import regex

from mmmed.ingest.negation import SLOWEST, Certainty, certainty

__all__ = [
    "SLOWEST",
    "Certainty",
    "Section",
    "finding",
    "finding_stated",
    "has_section",
    "select_sections",
    "sentences",
]
Section = Literal["history", "technique", "findings", "impression", "other"]

_WORDS: dict[str, str] = {
    "history": r"(?:clinical |patient |relevant )?(?:history|information|indications?|details|data|question|problem)|"
    r"reason for (?:the )?(?:exam(?:ination)?|study|visit|request)|anamnese|klinische (?:angaben?|daten|"
    r"informationen?|fragestellung)|klinik|"
    r"(?:klinische )?fragestellung|(?:rechtfertigende )?indikation(?:sstellung)?|vorgeschichte|"
    r"überweisungs(?:diagnose|grund)|motif|renseignements cliniques",
    "technique": r"techniques?|procedures?|comparisons?|protocol|exam(?:ination)?|study|technik|"
        r"untersuchungs(?:technik|protokoll)|methodik|"
    r"voraufnahmen?|voruntersuchung(?:en)?|vergleich|untersuchung|contrast|kontrastmittel",
    "findings": r"(?:radiological |imaging |detailed )?(?:findings?|observations?|results?|report)|description|"
        r"befunde?|befundbeschreibung|"
    r"beschreibung|bevindingen|résultats?|hallazgos|reperti",
    "impression": r"(?:final |overall |radiological |preliminary )?(?:impressions?|conclusions?|assessment|opinion|"
        r"summary|diagnos[ie]s|interpretation|comments?|"
    r"recommendations?|plan|synopsis|in summary)|(?:zusammenfassende |abschließende |gesamt|"
    r"radiologische )?(?:beurteilung|bewertung|wertung|einschätzung|"
    r"diagnosen?)|zusammenfassung|zusammenfassend|epikrise|fazit|schlussfolgerung(?:en)?|ergebnis|interpretation|"
    r"kommentar|conclusie|besluit|"
    r"conclusión|conclusiones|impresión|synthèse|conclusioni|conclusão|empfehlung(?:en)?|procedere|resümee|a/p|imp",
}  # fmt: skip
_STEMS = re.compile(
    r"(?i)impress|conclu|beurteil|zusammenfass|schlussfolger|epikris|fazit|bewertung|assessment|"
    r"interpretation|diagnos[ie]"
)
_JOIN = r"[ ]?(?:/|&|\+|and|und|,|-|or|et|y|en)[ ]?"
_ONE = "|".join(f"(?:{words})" for words in _WORDS.values())
_KNOWN = re.compile(rf"(?i)(?:the )?(?:{_ONE})(?:{_JOIN}(?:{_ONE})){{0,2}}(?:[ ]\([^()\n]{{1,30}}\))?")
_MARK = r"[ \t]*(?:#{1,6}[ ]*|(?:\d{1,2}|[IVX]{1,4}|[a-zA-Z])[.)][ ]*|[-•–>][ ]+)?(?:\*{1,2}|_{1,2}|<b>|\[)?"
_COLON = re.compile(
    rf"^{_MARK}(?P<title>[^\n:.!?*_\]]{{2,60}}?)[ ]*(?:(?:\*{{1,2}}|_{{1,2}}|</b>|\])?[ ]*[:=]|"
    rf"\](?=[ ]))[ ]*(?:\*{{1,2}}|_{{1,2}})?[ \t]*",
    re.M,
)
_BARE = re.compile(
    rf"^{_MARK}(?P<title>{_KNOWN.pattern.removeprefix('(?i)')})[ ]*(?:\*{{1,2}}|_{{1,2}}|</b>|\])?(?:[ ]*$|"
    rf"[ ]+[-–—][ ]+|[ ]*[.—–][ ]*$)[ \t]*",
    re.M | re.I,
)
_LEADING = re.compile(  # begins its line without a sign after it
    r"^[ \t]*(?P<title>IMPRESSIONS?|CONCLUSIONS?|BEURTEILUNG|FINDINGS|BEFUND|HISTORY|INDICATION|TECHNIQUE|"
    r"ZUSAMMENFASSUNG"
    r"|Impression|Conclusion|Beurteilung|Zusammenfassung|Epikrise|Fazit|Zusammenfassend)[ ]+(?!of\b|on\b|by\b|and\b|"
    r"und\b|der\b|des\b|is\b)(?=\w)",
    re.M,
)
_MOST_WORDS = 6  # of a heading


def _classified(title: str) -> str | None:
    """The section that a heading opens; one of several is the conclusion if that is among them. None: no heading."""
    title = " ".join(title.split()).strip(" .-–")
    known = _KNOWN.fullmatch(title)
    for name in ("impression", "findings", "history", "technique"):
        if known and re.search(rf"(?i)(?<!\w)(?:{_WORDS[name]})(?!\w)", title):
            return name
    return "impression" if len(title.split()) <= _MOST_WORDS and _STEMS.search(title) else None


def _headings(text: str) -> list[tuple[int, int, str]]:
    """(start, end, section) of every heading, in order."""
    marks: dict[int, tuple[int, int, str]] = {}
    for form in (_COLON, _BARE, _LEADING):
        for mark in form.finditer(text):
            name = _classified(mark["title"])
            if name is not None:
                marks.setdefault(mark.start(), (mark.start(), mark.end(), name))
    return sorted(marks.values())


def _parts(text: str) -> list[tuple[str, str]]:
    """The sections of a text with their names; what stands before the first heading is ``other``."""
    marks = _headings(text)
    starts = [start for start, _, _ in marks] + [len(text)]
    parts = [("other", text[: starts[0]])]
    return parts + [(name, text[end:after]) for (_, end, name), after in zip(marks, starts[1:], strict=True)]


def select_sections(text: str, keep: Sequence[Section]) -> str:
    """The sections named by ``keep``, or the whole text if it is empty. Text before the first heading is ``other``."""
    if not keep:
        return text
    return "\n".join(part.strip() for name, part in _parts(text) if name in keep and part.strip())


def has_section(text: str, sections: Sequence[Section]) -> bool:
    """Whether a report has one of these sections; any report has all of none."""
    return not sections or any(name in sections and part.strip() for name, part in _parts(text))


# ---------------------------------------------------------------- sentences

_ABBREVIATIONS = (
    r"Dr|Prof|Mr|Mrs|Ms|St|Nr|No|vs|approx|e\.g|i\.e|cf|etc|incl|resp|est|Fig|max|min|ca|bzw|z\.\s?B|u\.\s?a|"
    r"o\.\s?g|d\.\s?h|V\.\s?a|Z\.\s?n|"
    r"DD|evtl|ggf|ggü|path|pathol|pulm|pulmon|kard|entz|entzündl|infiltr|ausgepr|ger|geringgr|vergr|verd|sog|insb|"
    r"insbes|zirk|inkl|vermehrt|"
    r"venös|art|lob|seg|rez|chron|ak|akt|unverd|spez|mediast|basal|interst|postop|präop|med|lat|dors|ventr|kran|"
    r"kaud|beg|bek|li|re|bds|subpl|"
    r"wsl|wahrsch|susp|fragl|mögl|diff|einschl|u|o|d|f|s|m|i|a|e|n|v|z|p|t"
)
_ENDS = re.compile(rf"(?<![\w.])(?:{_ABBREVIATIONS})\.$", re.I)
_SIDES = re.compile(
    r"(?:[A-ZÄÖÜ][\w-]+[ ](?:li|re|bds|basal)|etc)\.$"
)  # end a sentence after a noun, not after "im"
_NEW = re.compile(r"[A-ZÄÖÜ]")
_STOP = re.compile(r"[.!?](?=[\s\"')\]])\s*|;\s*|\n+")
_HANGING = re.compile(  # a line that ends so goes on in the next
    r"(?i)(?:[,(/–-]|(?<!\w)(?:no|not|of|the|an?|and|or|nor|for|in|on|at|to|with|without|is|are|any|by|from|new|"
    r"focal|left|right|evidence|sign|signs|"
    r"kein(?:e[nrsm]?)?|ohne|nicht|einen?|eine[rms]|ein|der|die|das|des|dem|den|und|oder|noch|weder|auf|von|vom|im|"
    r"in|mit|für|zur?|zum|bei|path\.?|"
    r"pathologische[nrsm]?|sichere[nrsm]?|Hinweis|Hinweise|Nachweis|Anhalt))$"
)
_ITEM = re.compile(r"[ \t]*(?:[-•*–>]|\d{1,2}[.)])[ \t]|[ \t]*$")
_SHORTEST_WIDTH = 30  # characters a line, from which lines may be wrapped


def sentences(text: str) -> Iterator[str]:
    """The sentences of a report, lines that were wrapped joined; abbreviations end none."""
    for block in _unwrapped(text).split("\n"):
        start = 0
        for stop in _STOP.finditer(block):
            said = block[start : stop.start() + 1].rstrip()
            if stop[0][0] == "." and _ENDS.search(said):
                following = block[stop.end() :]
                if not (_SIDES.search(said) and _NEW.match(following)):
                    continue
            if said.strip(" .;"):
                yield said.strip()
            start = stop.end()
        if block[start:].strip(" .;"):
            yield block[start:].strip()


def _unwrapped(text: str) -> str:
    lines = [" ".join(line.split()) if line.strip() else "" for line in text.splitlines()]
    width = max(map(len, lines), default=0)
    headings = {text.count("\n", 0, start) for start, _, _ in _headings(text)}
    joined: list[str] = []
    for number, (line, raw) in enumerate(zip(lines, text.splitlines(), strict=True)):
        before = joined[-1] if joined else ""
        if (
            before
            and line
            and number not in headings
            and not _ITEM.match(raw)
            and _goes_on(before, lines[number - 1], line, width)
        ):
            joined[-1] = (
                before.rstrip("-") + line
                if re.search(r"[a-zäöü]-$", before) and line[0].islower()
                else f"{before} {line}"
            )
        else:
            joined.append(line)
    return "\n".join(joined)


def _goes_on(before: str, last: str, line: str, width: int) -> bool:
    """Whether a line continues the one before it."""
    if re.search(r"[.!?;:]$", before) and not _ENDS.search(before):
        return False
    if line[0].islower() or line[0] in "(,/" or _HANGING.search(before) or _ENDS.search(before):
        return True
    full = len(last) + 1 + len(line.split()[0]) > width  # the next word had not fitted
    return width >= _SHORTEST_WIDTH and full


def finding(text: str, pattern: regex.Pattern[str]) -> Certainty:
    """The most that a text says of what ``pattern`` matches; denied if it does not name it.

    Raises `TimeoutError` if it takes longer than `SLOWEST` on one sentence, as nested repetition may.
    """
    said = [told for sentence in sentences(text) if (told := certainty(sentence, pattern)) is not None]
    return max(said, default=Certainty.DENIED)


def finding_stated(text: str, pattern: regex.Pattern[str]) -> bool:
    """Whether some sentence states what ``pattern`` matches, neither denied nor left open. Raises as `finding`."""
    return finding(text, pattern) is Certainty.STATED
