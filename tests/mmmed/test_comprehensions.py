"""Early Pythons 3.12 take a comprehension's variable for the module's name that another one of the function uses."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_INLINED = (ast.ListComp, ast.SetComp, ast.DictComp)  # by PEP 709


def confused(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of each comprehension whose variable another of its function looks for in the module."""
    tree = ast.parse(code)
    known = {*dir(builtins), *(name for node in tree.body for name in _defined(node))}
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        found = [node for node in ast.walk(function) if isinstance(node, _INLINED)]
        for one in found:
            for other in found:
                if one is not other and not any(node is other for node in ast.walk(one)):
                    taken = (_variables(one) & _read(other) & known) - _variables(other)
                    yield from ((one.lineno, name) for name in taken)


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
        return
    for part in ast.walk(node):
        if isinstance(part, ast.alias):
            yield (part.asname or part.name).partition(".")[0]
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id


def _variables(node: ast.expr) -> set[str]:
    targets = [one.target for one in ast.walk(node) if isinstance(one, ast.comprehension)]
    return {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}


def _read(node: ast.expr) -> set[str]:
    names = (one for one in ast.walk(node) if isinstance(one, ast.Name))
    return {one.id for one in names if isinstance(one.ctx, ast.Load)}


def test_it_is_found() -> None:
    before = "def number(x): return x\ndef course(t):\n    t = [number for number in t]\n"
    assert list(confused(f"{before}    return [number(one) for one in t]")) == [(3, "number")]
    assert not list(confused(f"{before}    return [one for one in t]"))


@pytest.mark.parametrize("package", ["mmmed", "privacy", "client", "server", "simulations"])
def test_no_comprehension_hides_what_another_uses(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    hidden = [(str(path), *one) for path in files for one in confused(path.read_text(encoding="utf-8"))]
    assert not hidden
