"""A model card as Markdown with Hugging Face's front matter, and as one HTML page. All text is another's: escaped."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmmed.text import escaped
from server.model_card.blocks import Block, Card, Cell, Fill, Items, Text

TO_FILL = "TO BE FILLED IN"

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --soft: #5b6472; --rule: #d5d9e0; --paper: #ffffff; --fill: #fdf0c4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9aa4b2; --rule: #374151; --paper: #111827; --fill: #4a3d10; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 52rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid var(--rule); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; margin: 0.8rem 0; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0; border-bottom: 1px solid var(--rule);
  overflow-wrap: anywhere; } th { color: var(--soft); font-weight: 600; min-width: 5rem; }
.facts th { width: 13rem; overflow-wrap: break-word; }
mark { background: var(--fill); color: inherit; padding: 0.1rem 0.3rem; border-radius: 0.2rem; }
@media print { body { margin: 0; max-width: none; } }
"""


def to_markdown(card: Card) -> str:
    """The card as Markdown below front matter in YAML."""
    lines = ["---", *_yaml(card.facts), "---", "", f"# {_md(card.title)}", ""]
    for title, blocks in card.sections:
        lines += [f"## {_md(title)}", ""]
        for block in blocks:
            lines += [*_md_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def to_html(card: Card) -> str:
    """The card as one HTML page: no script, no external part, light and dark."""
    body = [f"<h1>{_html(card.title)}</h1>"]
    for title, blocks in card.sections:
        body += [f"<section><h2>{_html(title)}</h2>", *map(_html_block, blocks), "</section>"]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_html(card.title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _yaml(facts: Mapping[str, Any]) -> Iterator[str]:
    """Front matter: JSON values, which YAML reads as they are, a key a line."""
    for key, value in facts.items():
        note = f"  # {TO_FILL}: the license of the model" if key == "license" else ""
        yield f"{key}: {json.dumps(value, ensure_ascii=True)}{note}"


def _md_block(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [_md(block.text)]
    if isinstance(block, Items):
        return [f"- {_md(one)}" for one in block.items]
    rows = [block.head, ["---"] * len(block.head)]
    return [f"| {' | '.join(map(_md, rows[0]))} |", f"|{'|'.join(rows[1])}|"] + [
        f"| {' | '.join(map(_md, row))} |" for row in block.rows
    ]


def _md(cell: Cell) -> str:
    """Text on one line in which Markdown and HTML see nothing but text."""
    if isinstance(cell, Fill):
        return f"**{TO_FILL}**: {_md(cell.what)}"
    line = " ".join(escaped(cell, keep="\n\t\xa0").split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|#~!])", r"\\\1", line).replace("://", "\\://")
    return re.sub(r"^([-+]|\d+(?=[.)]\s))", r"\\\1" if line[:1] in "-+" else r"\1\\", line)


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_html(block.text)}</p>"
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{_html(one)}</li>' for one in block.items)}</ul>"
    head = "".join(f"<th>{_html(one)}</th>" for one in block.head)
    above = f"<thead><tr>{head}</tr></thead>" if any(block.head) else ""
    kind = "wide" if above else "wide facts"
    return f'<div class="{kind}"><table>{above}<tbody>{"".join(map(_html_row, block.rows))}</tbody></table></div>'


def _html_row(row: Sequence[Cell]) -> str:
    first, *rest = map(_html, row)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{one}</td>" for one in rest)}</tr>'


def _html(cell: Cell) -> str:
    if isinstance(cell, Fill):
        return f"<mark>{TO_FILL}: {_html(cell.what)}</mark>"
    return html.escape(" ".join(escaped(cell, keep="\n\t\xa0").split()))
