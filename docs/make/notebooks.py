"""Make notebooks of tutorials: ``python docs/make/notebooks.py``. A test says when one is out of date.

A block of Python becomes a cell, one of ``bash`` a cell of the shell, and what stands between them text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parents[1]
NOTEBOOKS = {"simulate-in-python": "simulate", "predict-and-explain": "predict-and-explain"}
_BLOCK = re.compile(r"(?:<!-- in tests: .*? -->\n)?```(bash|python)\n(.*?)```\n", re.S)


def notebook(tutorial: str) -> str:
    """The notebook (nbformat 4.5) of a tutorial's text."""
    cells = []
    for kind, source in _parts(tutorial):
        lines = source.splitlines(keepends=True)
        cell = {"cell_type": kind, "id": f"cell-{len(cells)}", "metadata": {}, "source": lines}
        cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _parts(tutorial: str) -> Iterator[tuple[str, str]]:
    """Cells by kind, "markdown" or "code". Links between pages of the documentation still lead there."""
    text, *rest = _BLOCK.split(tutorial)
    triples = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
    yield from _text(text)
    for language, block, after in triples:
        yield "code", ("%%bash\n" if language == "bash" else "") + block.rstrip()
        yield from _text(after)


def _text(text: str) -> Iterator[tuple[str, str]]:
    if text.strip():
        yield "markdown", re.sub(r"\]\((?!\w+:|\.\./|#)([\w-]+\.md)", r"](../tutorials/\1", text.strip())


if __name__ == "__main__":
    for page, name in NOTEBOOKS.items():
        made = notebook((DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8"))
        (DOCS / "notebooks" / f"{name}.ipynb").write_text(made, encoding="utf-8")
        print(f"docs/notebooks/{name}.ipynb")
