"""Keys and requests of sites, and one federation that most tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mmmed.pki.certificates import create_key, make_request
from simulations.loopback.coordinator import Coordinator
from tests.deployment.live import TwoHospitals


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., Path]:
    """A new site's request; its key lies beside it, as NAME.key."""

    def make(name: str, file: str | None = None) -> Path:
        path = tmp_path / f"{file or name}.request"
        path.write_bytes(make_request(create_key(path.with_suffix(".key")), name))
        return path

    return make


@pytest.fixture(scope="session")
def nginx() -> None:
    """Skip where nginx is not installed."""
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        pytest.skip("nginx is not installed")


@pytest.fixture(scope="session")
def federation(
    nginx: None, hospitals: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoHospitals]:
    """A coordinator and two hospitals, north and south, that run; and the keys of a site "gone" that does not."""
    home = tmp_path_factory.mktemp("federation")
    running = TwoHospitals(home, hospitals)
    running.start()
    yield running
    running.end()


@pytest.fixture
def coordinator(federation: TwoHospitals) -> Coordinator:
    return federation.coordinator
