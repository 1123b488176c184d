"""A model card of a run: what its own files say, and marked places for what only people know."""

from server.model_card.blocks import Card
from server.model_card.content import make_card
from server.model_card.pages import to_html, to_markdown

__all__ = ["Card", "make_card", "to_html", "to_markdown"]
