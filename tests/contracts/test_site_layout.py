"""The names of what lies in a site's folder stand in `client.site_folder`, nowhere else in `client` or the command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import client.site_folder

OWNER = Path(client.site_folder.__file__)
REPOSITORY = OWNER.parents[1]
FILES = {
    "site.toml",
    "site-policy.toml",
    "officer.pub",
    "second-officer.pub",
    "site.key",
    "ledger.db",
    "site.log",
    "progress.json",
}
FOLDERS = {"state", "node", "released", "carried", "images"}


def names(tree: ast.AST) -> Iterator[str]:
    """Names of files anywhere; those of folders, which are words as well, where a path is made of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in FILES:
            yield str(node.value)
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            parts = node.args if called in ("Path", "joinpath", "with_name") else []
        yield from (one.value for one in parts if isinstance(one, ast.Constant) and one.value in FOLDERS)


def test_the_owner_names_all_of_them() -> None:
    assert set(names(ast.parse(OWNER.read_text()))) >= FILES | FOLDERS - {"state"}


def test_no_other_module_names_one() -> None:
    read = [
        path
        for folder in ("client", "mmmed/cli")
        for path in (REPOSITORY / folder).rglob("*.py")
        if path != OWNER
    ]
    found = {
        str(path.relative_to(REPOSITORY)): known
        for path in read
        if (known := sorted(names(ast.parse(path.read_text()))))
    }
    assert len(read) > 40 and found == {}
