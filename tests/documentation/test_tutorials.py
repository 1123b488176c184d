"""Every tutorial, typed from top to bottom in an empty folder.

Blocks of ``bash`` and ``python`` are carried out in turn, ``console`` is only shown. Commands of mmmed run in this
process, all else in bash. A comment before a block, ``<!-- in tests: A -> B -->``, types B in place of A, since the
generated hospitals are small here.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmmed.cli import main
from mmmed.demo import FORMAT

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
FEDERATION = "two-hospitals"  # starts real processes: tests/deployment/test_poc.py does the same with fewer
_BLOCK = re.compile(r"(?:<!-- in tests: (.*?) -> (.*?) -->\n)?```(bash|python)\n(.*?)```", re.S)


def tutorials() -> list[Any]:
    slow = [pytest.mark.slow]
    names = sorted(path.stem for path in TUTORIALS.glob("*.md") if path.stem != "index")
    return [pytest.param(name, marks=slow if name == FEDERATION else []) for name in names]


@pytest.fixture
def empty_folder(tmp_path: Path, hospitals: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a tutorial begins in. Where it expects the generated hospitals are two small ones of one size.

    Of one size, since a report computes each mechanism, and one follows from each size.
    """
    demo = tmp_path / "home" / f"demo-v{FORMAT}-seed0-scale1"
    shutil.copytree(hospitals, demo)
    table = pd.read_csv(demo / "data.csv", dtype=str, keep_default_na=False)
    number = pd.factorize(table["patient_id"])[0]
    table["site"] = np.where(number % 2, "northgate", "harbour")
    table.to_csv(demo / "data.csv", index=False)
    (demo / "generated.json").write_text(json.dumps({"format": FORMAT, "seed": 0, "scale": 1.0}))
    monkeypatch.setenv("MMMED_HOME", str(tmp_path / "home"))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def statements(block: str) -> Iterator[str]:
    """The commands of a bash block, one with a here-document whole."""
    lines = iter(block.splitlines())
    for line in lines:
        if end := re.search(r"<<'(\w+)'", line):
            body = [line]
            while body[-1] != end[1]:
                body.append(next(lines))
            yield "\n".join(body)
        elif line.strip() and not line.startswith("#"):
            yield line


def typed(statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out one command; one that ends in ``|| ...`` must fail, all others must not."""
    if not statement.startswith("mmmed "):
        subprocess.run(["bash", "-euo", "pipefail", "-c", statement], check=True)
        return
    command, _, otherwise = statement.partition("||")
    words = [found for word in shlex.split(command) for found in _files(word)]
    if words[1] == "simulate" and words[2].startswith("-"):
        words += ["--workers", "0"]  # processes would import torch again
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert bool(ended.value.code) == bool(otherwise), f"{statement}: exit code {ended.value.code}"


def _files(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


@pytest.mark.parametrize("name", tutorials())
def test_a_tutorial_can_be_typed(name: str, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmmed.modalities.text import WORDS

    before, names = dict(WORDS), {"__name__": "tutorial"}
    try:
        for old, new, language, block in _BLOCK.findall(
            (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
        ):
            assert not old or old in block, f"{old!r} is not in the block that it belongs to"
            block = block.replace(old, new) if old else block
            if language == "python":
                exec(compile(block, f"{name}.md", "exec"), names)  # noqa: S102 - the project's own
                continue
            for statement in statements(block):
                typed(statement, monkeypatch)
    finally:
        for one in WORDS.keys() - before.keys():
            del WORDS[one]
