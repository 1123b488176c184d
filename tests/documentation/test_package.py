"""What is handed over: the wheel and the source archive hold every file that the code reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("mmmed", "privacy", "client", "server", "simulations")
_BUILD = "from setuptools import build_meta as b; b.build_wheel('out'); b.build_sdist('out')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "out").mkdir()
    subprocess.run([sys.executable, "-c", _BUILD], cwd=tree, check=True, capture_output=True)
    return tree


def _files(tree: Path) -> set[str]:
    found = (path for name in PACKAGES for path in (tree / name).rglob("*") if path.is_file())
    return {str(path.relative_to(tree)) for path in found if "__pycache__" not in path.parts}


def test_every_file_of_the_packages_is_in_the_wheel_and_in_the_source_archive(built: Path) -> None:
    (wheel,), (source,) = (built / "out").glob("*.whl"), (built / "out").glob("*.tar.gz")
    expected = _files(built)
    assert sum(not name.endswith(".py") for name in expected) > 30
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in in_wheel if ".dist-info/" not in name} == expected
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert expected <= names and {"pyproject.toml", "README.md", "LICENSE"} <= names


def test_the_wheel_says_what_it_needs(built: Path) -> None:
    (wheel,) = (built / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("/METADATA"))
        told = archive.read(name).decode().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {line.removeprefix("Provides-Extra: ") for line in told if line.startswith("Provides-Extra: ")}
    assert extras == set(project["optional-dependencies"])
    needed = [line for line in told if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert len(needed) == len(project["dependencies"]) and "License-File: LICENSE" in told


def test_every_dependency_is_pinned() -> None:
    import re

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ;]", name)[0]).lower()

    pinned = {
        plain(line)
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if not line.startswith("#")
    }
    assert not [name for name in needed if plain(name) not in pinned]
