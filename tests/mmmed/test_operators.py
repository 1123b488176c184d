"""torchvision, and all that imports it, loads beside whatever torch there is, and nothing is declared twice.

Each case is a process of its own: to declare an operator a second time ends the process, and the first import of
torchvision in a process is what is tried. Most are forked from one that has imported torch, which takes longest.
Beside a CPU wheel of torch its library does not load, beside the package index's ordinary one it does: the tests hold
beside both.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.forks import forks

_TEXT_MODEL = "from transformers import BertModel"  # transformers imports torchvision with it
_USE = """
import torch
from torchvision import transforms
from torchvision.extension import _has_ops

assert transforms.Resize((4, 4))(torch.zeros(1, 8, 8)).shape == (1, 4, 4)
schema = torch.ops.torchvision.nms.default._schema
assert [argument.name for argument in schema.arguments] == ["dets", "scores", "iou_threshold"]
if _has_ops():
    kept = torch.ops.torchvision.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    assert kept.tolist() == [0]
"""


def _python(program: str, *folders: Path) -> None:
    """Run a program in a process of its own, with these folders first on its path."""
    path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def forked() -> Iterator[Callable[..., None]]:
    """As `_python`, in a fork of a process that has imported torch alone."""
    with forks("import torch") as run:

        def check(program: str, *folders: Path) -> None:
            done = run(program, folders=folders)
            assert done.returncode == 0, done.stderr

        yield check


def test_torchvision_is_imported_after_mmmed_alone() -> None:
    _python(f"import mmmed\n{_USE}")


@pytest.mark.parametrize(
    "first",
    [
        "import mmmed",
        f"import mmmed\n{_TEXT_MODEL}",
        "import mmmed\nimport monai.networks.nets",
        "try:\n    import torchvision\nexcept RuntimeError:\n    pass\nimport mmmed",
        f"try:\n    {_TEXT_MODEL}\nexcept (ImportError, RuntimeError):\n    pass\nimport mmmed",
        "import mmmed\nimport torchvision\nimport importlib\nimportlib.reload(torchvision)",
    ],
)
def test_torchvision_is_imported_in_any_order(first: str, forked: Callable[..., None]) -> None:
    forked(f"{first}\n{_USE}")


@pytest.mark.parametrize(
    ("method", "before"),
    [
        ("spawn", "import torchvision"),
        ("fork", "import client.node.task"),  # as a site's runner, whose forks do the tasks
    ],
)
def test_torchvision_is_imported_in_workers(method: str, before: str, tmp_path: Path) -> None:
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this platform does not fork")
    worker = f"import mmmed\n\ndef use():\n    exec({_USE!r})\n"
    (tmp_path / "some_worker.py").write_text(worker)
    _python(
        f"""
import multiprocessing

import mmmed
import some_worker
{before}
if __name__ == "__main__":
    worker = multiprocessing.get_context({method!r}).Process(target=some_worker.use)
    worker.start()
    worker.join(850)
    assert worker.exitcode == 0
""",
        tmp_path,
    )


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    _python("import sys\nimport mmmed\nassert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)")


def test_text_models_load_without_torchvision(forked: Callable[..., None]) -> None:
    forked(
        f"""
import sys

sys.modules["torchvision"] = None  # import and find_spec then answer as where it is not installed
import mmmed.models
from mmmed._monai import ResNet
{_TEXT_MODEL}
"""
    )


@pytest.mark.parametrize("error", ["RuntimeError('another version of CUDA')", "ImportError('half a wheel')"])
def test_what_else_is_wrong_with_torchvision_is_told(
    error: str, tmp_path: Path, forked: Callable[..., None]
) -> None:
    """A package that fails for a reason of its own fails with it; no operator is declared in its name."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from torchvision import extension\n")
    (package / "extension.py").write_text(f"raise {error}\n")
    forked(
        f"""
import mmmed
import torch

try:
    import torchvision
except {error.partition("(")[0]} as error:
    assert str(error) == {error.split("'")[1]!r}
else:
    raise AssertionError
assert not hasattr(torch.ops.torchvision, "nms")
""",
        tmp_path,
    )
