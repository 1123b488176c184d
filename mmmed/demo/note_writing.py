"""Free-text notes: a few telling phrases, a few that say nothing, in a hospital's own style, with slips.

``evidence`` -1 (well) to 1 (ill) decides how many topics are said to be present and how many to be absent;
near 0 they contradict each other, as they do in life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from mmmed.demo.phrases import (
    DISTRACTORS,
    EMPTY_FIELD,
    FIELDS,
    OPENINGS,
    REASON_FIELD,
    REASONS,
    TELLING,
    Group,
    Style,
    Topic,
)

__all__ = ["Note", "Style", "public_text", "write_note"]

_TILT = 4.0  # log-odds that a topic is present, per unit of evidence
_MENTIONED = {"narrative": 4, "templated": 6, "terse": 5}  # telling topics a note has
_SLIPS = {"narrative": 0.01, "templated": 0.005, "terse": 0.03}  # misspelt words
_MARK = "\x01"
_PERSON = {"F": {"he": "She", "his": "her", "man": "woman"}, "M": {"he": "He", "his": "his", "man": "man"}}


class Note(NamedTuple):
    """A note, and of each of its words (between spaces) whether it is of a telling phrase."""

    text: str
    telling: tuple[bool, ...]


def write_note(style: Style, evidence: float, age: int, sex: str, rng: np.random.Generator) -> Note:
    """One note, of at most about 60 words.

    Args:
        style: how the hospital writes.
        evidence: -1 (well) to 1 (ill): how likely each topic is said to be present.
        age: years.
        sex: "F" or "M".
        rng: public randomness.
    """
    order = rng.permutation(len(TELLING))[: _MENTIONED[style]]
    said = [(TELLING[i].group, _say(TELLING[i], style, evidence, rng)) for i in order]
    reason = _say(REASONS, style, evidence, rng)
    tells = [True] * len(said)
    for i in rng.permutation(len(DISTRACTORS[style]))[: 1 + rng.integers(2)]:
        place = int(rng.integers(len(said) + 1))
        said.insert(place, ("history", DISTRACTORS[style][i]))
        tells.insert(place, False)
    opening = _pick(OPENINGS[style], rng)
    note = _compose(style, opening, reason, said)
    marked = [(g, _marked(phrase) if tell else phrase) for (g, phrase), tell in zip(said, tells, strict=True)]
    telling = tuple(_MARK in word for word in _compose(style, opening, _marked(reason), marked).split(" "))
    fill = {"age": age, "sex": sex, **_PERSON[sex]}
    words = [_slip(word, _SLIPS[style], rng) for word in _fill(note, fill, rng).split(" ")]
    return Note(" ".join(words), telling)


def public_text() -> list[str]:
    """Every phrase that notes are made of, filled in with every pronoun and number, and no patient.

    Enough to build the WordPiece vocabulary of an encoder for these notes without looking at one.
    """
    telling = [
        phrase
        for topic in (*TELLING, REASONS)
        for side in (topic.present, topic.absent)
        for phrases in side.values()
        for phrase in phrases
    ]
    other = [p for table in (DISTRACTORS, OPENINGS) for phrases in table.values() for p in phrases]
    fields = [f"{name}: {EMPTY_FIELD}." for name in (*FIELDS.values(), REASON_FIELD)]
    text = []
    for phrase in (*telling, *other, *fields):
        for number, (sex, person) in enumerate(_PERSON.items()):
            numbers = range(18, 96) if "{age}" in phrase else range(2, 10) if "{n}" in phrase else [number]
            text += [phrase.format(age=n, n=n, sex=sex, **person) for n in numbers]
    return list(dict.fromkeys(text))


def _say(topic: Topic, style: Style, evidence: float, rng: np.random.Generator) -> str:
    present = rng.random() < 1 / (1 + np.exp(-_TILT * evidence))
    return _pick((topic.present if present else topic.absent)[style], rng)


def _marked(phrase: str) -> str:
    """As many words, each a mark."""
    return " ".join(_MARK for _ in phrase.split(" "))


def _pick(phrases: Sequence[str], rng: np.random.Generator) -> str:
    return phrases[int(rng.integers(len(phrases)))]


def _compose(style: Style, opening: str, reason: str, said: list[tuple[Group, str]]) -> str:
    phrases = [phrase for _, phrase in said]
    if style == "narrative":
        return " ".join((opening, reason, *phrases))
    if style == "terse":
        return ". ".join((opening, reason, ", ".join(phrases)))
    parts = [opening, f"{REASON_FIELD}: {reason}."]
    for group in get_args(Group):
        own = [phrase for g, phrase in said if g == group]
        parts.append(f"{FIELDS[group]}: {', '.join(own) or EMPTY_FIELD}.")
    return " ".join(parts)


def _fill(note: str, fill: dict[str, object], rng: np.random.Generator) -> str:
    """Fill the placeholders; every ``{n}`` is a number of its own, 2 to 9."""
    head, *rest = note.split("{n}")
    note = head + "".join(f"{rng.integers(2, 10)}{part}" for part in rest)
    text = note.format(**fill)
    return text[0].upper() + text[1:]


def _slip(word: str, rate: float, rng: np.random.Generator) -> str:
    """Misspell a word now and then: drop, double or swap a letter inside it."""
    if len(word) < 5 or rng.random() >= rate:
        return word
    i = int(rng.integers(1, len(word) - 2))
    kind = rng.integers(3)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[:i] + word[i] + word[i:]
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
