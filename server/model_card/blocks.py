"""What a model card is made of, before it is a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fill:
    """A place for people to fill in, and what belongs there."""

    what: str


Cell = str | Fill


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: Cell


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; each row has as many cells as the head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


Block = Text | Items | Table


@dataclass(frozen=True)
class Card:
    """A model card.

    Attributes:
        title: of the page.
        facts: the front matter, JSON values by the keys of Hugging Face's model cards.
        sections: a title and its blocks each, in order.
    """

    title: str
    facts: Mapping[str, Any]
    sections: Sequence[tuple[str, Sequence[Block]]]
