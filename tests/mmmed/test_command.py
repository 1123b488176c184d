"""The command starts quickly, on machines without the extras, and leaves other libraries as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mmmed import __version__, extras
from tests.forks import Run, forks

_ROOT = Path(__file__).parents[2]


def _python(program: str, *folders: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with these folders first on its path."""
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "MMMED_HOME": str(cwd or "")}
    environment.pop(
        "HF_HUB_DISABLE_PROGRESS_BARS", None
    )  # a command that ran in this process may have set it
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def _command(
    *arguments: object, cwd: Path, blocked: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``mmmed``, as where these modules are not installed."""
    return _python(_program(arguments, blocked), cwd=cwd)


def _program(arguments: tuple[object, ...], blocked: tuple[str, ...]) -> str:
    return f"""
import sys

sys.modules |= dict.fromkeys({blocked!r})  # None: import and find_spec then answer that there is no such module
sys.argv[1:] = {[str(argument) for argument in arguments]!r}
from mmmed.cli import main

main()
"""


# ---------------------------------------------------------------- quickly


def test_help_and_configuration_load_no_heavy_library(tmp_path: Path) -> None:
    done = _python(
        """
import sys
import typer
from mmmed.cli import app

def commands(command, path=()):
    yield path
    for name, part in getattr(command, "commands", {}).items():
        yield from commands(part, (*path, name))

root = typer.main.get_command(app)
seen = list(commands(root))
for path in seen:
    try:
        root.main([*path, "--help"])
    except SystemExit as ended:
        assert not ended.code, path
assert not {"pydantic", "simulations"} & set(sys.modules)
root.main(["config", "show"], standalone_mode=False)
heavy = {"torch", "torchvision", "transformers", "monai", "opacus", "flwr", "numpy", "pandas", "scipy", "sklearn"}
assert {("privacy", "plan"), ("site", "ingest"), ("server", "start"), ("simulate",)} <= set(seen)
assert not heavy & set(sys.modules), heavy & set(sys.modules)
""",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_version_is_told(tmp_path: Path) -> None:
    done = _command("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"mmmed {__version__}\n")


# ---------------------------------------------------------------- leaving others alone


def test_importing_changes_no_other_library() -> None:
    """Levels, filters, warnings and progress bars are as the libraries themselves leave them."""
    done = _python(
        """
import importlib
import logging
import pkgutil
import warnings

import dicomweb_client, flwr.serverapp, nibabel, pydicom, pynetdicom, transformers, urllib3
from transformers.utils.logging import is_progress_bar_enabled

def state():
    found = [logging.root, *logging.Logger.manager.loggerDict.values()]
    return {one.name: (one.level, one.disabled, list(one.filters)) for one in found if hasattr(one, "level")}

before = state()
imported = 0
for package in ("mmmed", "privacy", "client", "server", "simulations"):
    top = importlib.import_module(package)
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not {"bench", "soak", "loopback", "__main__"} & set(module.name.split(".")):
            importlib.import_module(module.name)
            imported += 1
assert imported > 150
after = state()
assert {name: after[name] for name in before} == before
assert is_progress_bar_enabled()
assert not [one for one in warnings.filters if "pydicom" in getattr(one[3], "pattern", "")]
"""
    )
    assert done.returncode == 0, done.stderr


def test_own_processes_are_quiet_whatever_a_library_does_when_imported() -> None:
    done = _python(
        """
from mmmed.quiet import quieten

quieten()
quieten()
import logging
import warnings

import flwr.serverapp, pydicom, pynetdicom
from transformers.utils.logging import is_progress_bar_enabled

assert not is_progress_bar_enabled()
logging.basicConfig(level=logging.DEBUG)
logging.getLogger("flwr").info("SAID")
logging.getLogger("pydicom").error("SAID")
logging.getLogger("pynetdicom.acse").error("SAID")
logging.getLogger("urllib3.connectionpool").debug("SAID")
warnings.warn_explicit("SAID", UserWarning, "valuerep.py", 1, module="pydicom.valuerep")
logging.getLogger("flwr").warning("HEARD")
"""
    )
    assert done.returncode == 0, done.stderr
    assert "SAID" not in done.stdout + done.stderr and "HEARD" in done.stdout + done.stderr


# ---------------------------------------------------------------- without the extras

_MODULES = tuple(
    module
    for extra_modules in extras._MODULES.values()
    for module in extra_modules
    if module != "regex"  # transformers brings it as well
)
_INGEST = ("source", "--out", "out")


@pytest.fixture(scope="module")
def forked() -> Iterator[Run]:
    """Programs in forks of a process that has imported what every install has."""
    with forks("import numpy, pandas, torch, typer, pydantic") as run:
        yield run


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("ingest", ("site", "fetch", "dicom://PACS@localhost:1", "--out", "out", "--from", "2026-01-01")),
        ("ingest", ("site", "ingest", *_INGEST, "--config", "site.toml")),
        ("ingest", ("site", "deidentify", *_INGEST)),
        ("ingest", ("site", "images", "data")),
        ("ingest", ("site", "approve-images", "data", "--all")),
        ("export", ("export", "model", "--to", "onnx", "--out", "out")),
        ("serve", ("serve", "model")),
        ("ray", ("simulate", "--engine", "ray", "--out", "run")),
        ("pretrained", ("simulate", "--config", _ROOT / "configs" / "demo.toml", "--out", "run")),
    ],
)
def test_what_needs_an_extra_says_so_in_one_sentence(
    extra: str, arguments: tuple[object, ...], tmp_path: Path, forked: Run
) -> None:
    done = forked(_program(arguments, _MODULES), cwd=tmp_path, environment={"MMMED_HOME": str(tmp_path)})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"extra `{extra}`" in done.stderr and f"pip install 'mmmed[{extra}]'" in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name in ("out", "run", "site-data.key")]


def test_the_default_model_trains_without_extras_and_says_what_gives_more(
    hospitals: Path, tmp_path: Path
) -> None:
    settings = [
        "federation.rounds=1",
        "training.local_epochs=1",
        "privacy.delta=0.01",
        "training.batch_size=8",
    ]
    assignments = [word for setting in settings for word in ("--set", setting)]
    done = _command(
        "simulate", "--workers", 0, "--data", hospitals, *assignments, cwd=tmp_path, blocked=_MODULES
    )
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    assert "pip install 'mmmed[pretrained]'" in shown and "configs/demo.toml" in shown


def test_every_package_of_an_extra_is_known() -> None:
    declared = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    no_command = {"dev", "docs"}
    optional = {k: given for k, given in declared["optional-dependencies"].items() if k not in no_command}
    assert optional.keys() == extras._MODULES.keys()
    brings: dict[str, set[str]] = {}
    for module, distributions in metadata.packages_distributions().items():
        for one in distributions:
            brings.setdefault(one.lower().replace("_", "-").replace(".", "-"), set()).add(module)
    for extra, requirements in optional.items():
        for requirement in requirements:
            name = requirement.split(">")[0].split("=")[0].lower().replace("_", "-").replace(".", "-")
            assert brings[name] & set(extras._MODULES[extra]), f"{requirement}: not in mmmed.extras"
