"""Take the documentation's pictures of pages anew: ``python -m docs.make.pictures [RUN]``, from the project's folder.

They are of a run with the defaults, which is carried out first unless the folder of one is named. It needs Chromium.
The plot of the private step's cost, ``docs/images/dpsgd-engine.png``, is a benchmark's: see docs/results.md.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.web.chromium import COMMAND, Chromium

IMAGES = Path(__file__).resolve().parent.parent / "images"
_RUN = Path("build/pictures/run")
_MMMED = [sys.executable, "-m", "mmmed.cli"]
_REPORT = 1690  # pixels of the report: down to epsilon by round and hospital
_COLOURS = 128


def main(arguments: list[str]) -> int:
    """Take all pictures."""
    if COMMAND is None:
        print("no Chromium is installed", file=sys.stderr)
        return 1
    run = Path(arguments[0]) if arguments else _RUN
    if not run.exists():
        subprocess.run([*_MMMED, "simulate", "--out", str(run)], check=True)
    report = (run / "report" / "privacy.html").resolve().as_uri()
    with _browser() as browser:
        _width(browser, 1000)
        browser.open(report)
        _take(browser, "privacy-report.png", most=_REPORT)
    with _dashboard(run) as (address, token):
        for name, page, dark in (("run", f"runs/{run.name}", False), ("site", "sites/1", True)):
            with _browser(dark=dark) as browser:
                browser.open(f"{address}/login")
                browser.run("document.querySelector('input').focus()")
                browser.type(token)
                browser.press("Enter")
                browser.wait_for("location.pathname != '/login'")
                browser.open(f"{address}/{page}")
                time.sleep(2)  # until its plots are drawn
                _take(browser, f"dashboard-{name}.png")
    return 0


@contextmanager
def _browser(*, dark: bool = False) -> Iterator[Chromium]:
    with tempfile.TemporaryDirectory() as profile, Chromium(Path(profile), dark=dark) as browser:
        yield browser


@contextmanager
def _dashboard(run: Path) -> Iterator[tuple[str, str]]:
    """A dashboard of the run: its address, and the token that it asks for."""
    token = secrets.token_urlsafe(12)
    command = [*_MMMED, "dashboard", str(run), "--port", "0"]
    process = subprocess.Popen(
        command, env=os.environ | {"MMMED_DASHBOARD_TOKEN": token}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[1].rstrip("/"), token
    finally:
        process.terminate()
        process.wait(30)


def _width(browser: Chromium, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False
    )


def _take(browser: Chromium, name: str, *, most: int | None = None) -> None:
    """Write a picture of the page that is open, cut below `most` pixels; few colours, so that it is small."""
    browser.screenshot(IMAGES / name)
    with Image.open(IMAGES / name) as whole:
        part = whole.crop((0, 0, whole.width, min(whole.height, most or whole.height)))
        part.convert("RGB").quantize(_COLOURS).save(IMAGES / name, optimize=True)
    print(IMAGES / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
