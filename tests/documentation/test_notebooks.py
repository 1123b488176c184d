"""The notebooks are the tutorials, which `test_tutorials` types; so their cells run."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
MAKE: dict[str, Any] = runpy.run_path(str(DOCS / "make" / "notebooks.py"))


@pytest.mark.parametrize(("page", "name"), MAKE["NOTEBOOKS"].items())
def test_a_notebook_is_its_tutorial(page: str, name: str) -> None:
    tutorial = (DOCS / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    kept = (DOCS / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert kept == MAKE["notebook"](tutorial), "out of date: python docs/make/notebooks.py"
    cells = json.loads(kept)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == tutorial.count("\n```python\n") + tutorial.count("\n```bash\n") > 3
    for one in code:  # each is Python, or handed to a shell whole
        assert one.startswith("%%bash\n") or compile(one, name, "exec")
    assert len({cell["id"] for cell in cells}) == len(cells)
