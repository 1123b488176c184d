"""Shared by all tests: offline, no telemetry, and nothing written outside temporary folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["HF_HUB_OFFLINE"] = "1"

import mmmed  # (before any test imports transformers, and with it torchvision)
from mmmed.demo import generate
from mmmed.extras import is_installed
from mmmed.modalities import MODALITIES

assert mmmed.__version__

# How long an example takes says what else the machine does, not whether the code is right.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a file's tests to one worker, so that they share its fixtures; all deployment tests share one federation.

    pytest-xdist's own ``loadgroup`` marks tests by an attribute of items that pytest 9.2 no longer reads, so that it
    separates what it should keep together. The largest groups start first: no worker is left waiting at the end.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneFederation(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "deployment" if nodeid.startswith("tests/deployment/") else nodeid.split("::")[0]

    return OneFederation(config, log)


@pytest.fixture(scope="session")
def medical_data() -> Path:
    """The development data (`MMMED_DATA`, default ../shared/data); tests that need it are skipped without it."""
    root = Path(os.environ.get("MMMED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no development data at {root} (set MMMED_DATA)")
    return root


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated hospitals of a few patients each."""
    return generate(tmp_path_factory.mktemp("hospitals") / "data", scale=0.06)


@pytest.fixture(scope="session", autouse=True)
def _no_image_is_of_the_sample() -> Iterator[None]:
    """One in 50 images waits for a human by its pseudonym, which tests draw anew: in tests none does for that alone."""
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # of its own: a test's is undone before the registries are looked at
        if is_installed("ingest"):
            from mmmed.ingest import clips, items

            for module in (items, clips):
                patch.setattr(module, "is_sample", lambda item: False)
        yield


@pytest.fixture(autouse=True)
def _registries_stay() -> Iterator[None]:
    """Fail a test that leaves the modalities otherwise than it found them, also in another order.

    The section of a run's data would be another class from then on, and tests of other files would fail.
    """
    before = list(MODALITIES)
    yield
    assert list(MODALITIES) == before


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["MMMED_HOME"] = str(tmp_path_factory.mktemp("mmmed-home"))
