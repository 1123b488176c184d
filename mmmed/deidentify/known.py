"""Patterns for what is known of a patient: names, ids and dates in every spelling that people give them."""

from __future__ import annotations

import itertools
import re
import unicodedata

from mmmed.deidentify.words import PARTICLES, is_word

TITLES = (
    r"Drs?|Prof|PD|Mr|Mrs|Ms|Miss|Mister|Herr|Herrn|Frau|Fr|Hr|Sr|Sra|Mme|OA|OÄ|CA|Doctor|Nurse|Schwester|Pfleger|"
    r"Fräulein|"
    r"Kolleg(?:e|en|in)|Sir|Dame|Rev|Dipl\.-(?:Med|Psych|Ing)|Priv\.-Doz|med|habil|univ|hc|Jr|Sr|II|III|MD|PhD"
)
_SPELLINGS = {
    "ä": "(?:ä|ae|a)",
    "ö": "(?:ö|oe|o)",
    "ü": "(?:ü|ue|u)",
    "ß": "(?:ß|ss)",
    "ø": "(?:ø|oe|o)",
    "å": "(?:å|aa|a)",
    "ł": "(?:ł|l)",
    "ı": "(?:ı|i)",
}
_SEPARATORS = " -'’.,^"
_PARTICLES = "|".join(PARTICLES)
# between two parts of a name
_LINK = rf"(?:[\s,^_]{{1,3}}|-)(?:(?:{_PARTICLES})[\s’']{{1,2}}){{0,3}}(?:[A-Z]\.?[\s,]{{1,2}})?"
_EAST_ASIAN = (
    r"\u1100-\u11ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f"
    r"\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_AFTER_SURNAME = "님|씨|氏|さん|さま|様|殿|君|ちゃん|先生|医師|医生|教授|女士|小姐|患者|선생|교수|의사|환자"
_MOST_PARTS = 5

Pattern = tuple[str, re.RegexFlag]
_ANY_CASE, _AS_WRITTEN = re.I, re.RegexFlag(0)


def name_patterns(name: str) -> list[Pattern]:
    """Patterns of a name as DICOM or people write it: in any order, and each part by itself, with an initial before it.

    A part that is a word of notes, too (May, Long, Klein), is one only beside another part, or with a capital where
    no sentence begins. East Asian names have no word borders, and a family name of one letter stands with another
    part or a title.
    """
    found: list[Pattern] = []
    for group in unicodedata.normalize("NFC", name).split("="):
        if re.search(rf"[{_EAST_ASIAN}]", group):
            found += [(pattern, _AS_WRITTEN) for pattern in _east_asian(group)]
        else:
            found += _latin(group)
    return found


def _latin(name: str) -> list[Pattern]:
    parts = [part.strip(".") for part in re.split(r"[\^,\s]+", name.strip()) if part.strip("._-'’")]
    parts = [part for part in parts if not re.fullmatch(rf"(?:{TITLES})\.?", part, re.I)]
    particles = [part for part in parts if part.casefold() in PARTICLES]
    led = rf"(?:(?:{'|'.join(map(re.escape, particles))})[\s’']){{0,3}}" if particles else ""
    parts = [part for part in dict.fromkeys(parts) if part.casefold() not in PARTICLES]
    found: list[Pattern] = []
    for one, other in itertools.permutations(parts[:_MOST_PARTS], 2):
        if len(one) > 1 and len(other) > 1:
            capital = is_word(one) and is_word(other)
            spell = _capitalised if capital else _letters
            found.append(
                (rf"(?<!\w){spell(one)}{_LINK}{spell(other)}(?!\w)", _AS_WRITTEN if capital else _ANY_CASE)
            )
    pieces = [
        piece for part in parts for piece in re.split(r"[-'’]", part) if piece != part and len(piece) >= 3
    ]
    for part in dict.fromkeys([*parts, *pieces]):
        if len(part) < 2:
            continue
        before, after = rf"(?<!\w)(?:[A-Z]\.\s?)?{led}", r"(?:['’]s|s)?(?!\w)"
        if is_word(part):
            found.append((rf"(?<=[\w,;)][ \u00a0]){_capitalised(part)}(?:['’]s)?(?!\w)", _AS_WRITTEN))
        elif len(part) == 2:
            found.append((rf"{before}{_capitalised(part)}{after}", _AS_WRITTEN))
        else:
            found.append((rf"{before}{_letters(part)}{after}", _ANY_CASE))
    return found


def _east_asian(name: str) -> list[str]:
    parts = [part for part in re.split(r"[\^,\s・]+", name.strip()) if part]
    found = [
        rf"{re.escape(one)}[\s・·,]?{re.escape(other)}" for one, other in itertools.permutations(parts, 2)
    ]
    if (
        len(parts) == 1 and 2 < len(parts[0]) < 5
    ):  # written as one word: the family name is mostly its first letters
        found.append(re.escape(parts[0][1:]))
        parts.append(parts[0][0])
    for part in parts:
        if len(part) > 1:
            found.append(re.escape(part))
        else:
            found.append(rf"{re.escape(part)}(?=\s?(?:{_AFTER_SURNAME}))")
    return found


def _capitalised(word: str) -> str:
    """A pattern for a word that begins with a capital and goes on in small letters."""
    word = unicodedata.normalize("NFC", word)
    return re.escape(word[0].upper()) + _letters(word[1:])


def _letters(word: str) -> str:
    """A pattern for a word however its umlauts, accents, hyphens and apostrophes are written, lost letters included."""
    out = []
    for character in unicodedata.normalize("NFC", word.lower()):
        bare = unicodedata.normalize("NFD", character)[0]
        if character in "?\ufffd":
            out.append(r"\w{1,2}")
        elif character in _SEPARATORS:
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


def id_pattern(value: str) -> str:
    """An id with or without separators and leading zeros; "" for words, and for ids of one to three characters."""
    characters = re.sub(r"\W|_", "", value).lstrip("0")
    if len(characters) < 4 or is_word(value.strip()):
        return ""
    return r"(?<![^\W_])0*" + r"[\s._/-]?".join(map(re.escape, characters)) + r"(?![^\W_])"


def date_pattern(value: str) -> str:
    """A date as year-month-day, day-month-year or month-day-year with any separators or none."""
    digits = re.sub(r"\D", "", value)
    if len(digits) != 8:
        return ""
    year, month, day = digits[:4], f"0?{int(digits[4:6])}", f"0?{int(digits[6:])}"
    short = rf"(?:{year}|'?{year[2:]})"
    orders = ((short, month, day), (day, month, short), (month, day, short))
    return r"(?<!\d)(?:" + "|".join(r"[\s./-]{0,2}".join(order) for order in orders) + r")(?!\d)"
