"""Whole runs of ``mmmed site ingest`` over damaged and hostile sources beside sound ones.

``MMMED_FUZZ=30`` tries 30 seeds instead of one; each takes about half a CPU-minute.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.mmmed.ingest.sources import MARK, OPTIONS, damage, patient, write_attacks, write_sources

SEEDS = range(int(os.environ.get("MMMED_FUZZ", "1")))
DAMAGED = 3  # hospitals in a run, beside the sound one
SHARE = 0.6  # of their files
FILES = ("image", "volume", "audio", "waveform")
# names of files, any id, names and accession numbers of the sound part; what damage made of others is known to nobody
_IDENTIFIERS = re.compile(MARK.encode() + rb"|qzid|(qzname|qzacc)000\d\d(?!\d)")
CPU_SECONDS, SECONDS, BYTES = 300, 1200, 6 << 30


@dataclass
class Run:
    """Runs in a box of its own: a folder with sources, a home, a place for temporary files, and the result."""

    box: Path

    def __call__(self) -> str:
        """Run the command; returns what it printed. It must end by itself, in time, without a traceback."""
        for name in ("home", "tmp", "cwd"):
            (self.box / name).mkdir(exist_ok=True)
        (self.box / "options.toml").write_text(OPTIONS)
        environment = {
            "HOME": str(self.box / "home"), "TMPDIR": str(self.box / "tmp"), "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        command = [
            sys.executable, "-m", "mmmed.cli", "site", "ingest", str(self.box / "in"), "--out", str(self.box / "out"),
            "--config", str(self.box / "options.toml"), "--key", str(self.box / "key"),
            "--files", str(self.box / "files.csv"),
        ]  # fmt: skip

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))

        done = subprocess.run(
            command, cwd=self.box / "cwd", env=environment, timeout=SECONDS, preexec_fn=limit, text=True,
            errors="backslashreplace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0 and "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def table(self) -> pd.DataFrame:
        """The table of studies, with the content of files instead of their names."""
        frame = pd.read_parquet(self.box / "out" / "data.parquet")
        for column in FILES:
            frame[column] = [name and _digest(self.box / "out" / name) for name in frame[column]]
        return frame.sort_values(["patient_id", "study_id", *FILES], ignore_index=True)

    def files(self) -> list[dict[str, str]]:
        """What became of every file."""
        with (self.box / "files.csv").open(errors="surrogateescape", newline="") as file:
            return list(csv.DictReader(file))

    def surroundings(self) -> dict[str, str]:
        """Everything that is there beside the result, with its content."""
        return {
            str(path): _digest(path) if path.is_file() and not path.is_symlink() else ""
            for path in self.box.rglob("*")
            if not {"out", "out-review", "key", "files.csv"} & set(path.relative_to(self.box).parts[:1])
        }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _state(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of everything written for training."""
    return {
        str(path): (_digest(path), path.stat().st_mtime_ns)
        for kind in ("images", "volumes", "audio", "waveforms", "review")
        for path in (folder / kind).glob("*")
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over sound sources alone."""
    run = Run(tmp_path_factory.mktemp("sound"))
    write_sources(run.box / "in" / "sound", 0)
    run()
    return run


def test_sound_sources_are_all_taken(sound: Run) -> None:
    files, table = sound.files(), sound.table()
    left = [Path(one["file"]).name for one in files if one["outcome"] != "taken"]
    assert left == ["DICOMDIR"], [one for one in files if one["outcome"] != "taken"]
    counts = [int((table[column].drop_duplicates() != "").sum()) for column in FILES]
    assert counts == [10, 4, 2, 2] and table["patient_id"].nunique() == 24, (counts, table.to_string())


@pytest.mark.parametrize("seed", SEEDS)
def test_damaged_sources_stop_nothing_and_nobody(seed: int, sound: Run, tmp_path: Path) -> None:
    run, draw = Run(tmp_path / "box"), random.Random(seed)
    shutil.copytree(sound.box / "in", run.box / "in")
    for number in range(1, 1 + DAMAGED):
        write_sources(run.box / "in" / f"damaged-{number}", number)
        for path in sorted((run.box / "in" / f"damaged-{number}").rglob("*")):
            if path.is_file() and draw.random() < SHARE:
                damage(path, draw)
    write_attacks(run.box / "in" / "attacks", escape=tmp_path / "escaped.txt")
    shutil.copy(sound.box / "key", run.box / "key")
    for name in ("home", "tmp", "cwd"):
        (run.box / name).mkdir()
    (run.box / "options.toml").write_text(OPTIONS)
    before = run.surroundings()

    console = run()
    assert run.surroundings() == before and not (tmp_path / "escaped.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"box"}
    assert MARK not in console.replace(str(run.box), "")
    _check_that_each_file_is_told_once(run)
    _check_that_the_sound_part_is_as_ever(run, sound)
    for path in (run.box / "out").rglob("*"):
        assert MARK not in path.name
        if path.is_file():
            content = path.read_bytes().lower()
            assert (found := _IDENTIFIERS.search(content)) is None, (path, found)

    written, files, table = _state(run.box / "out"), run.files(), run.table()
    assert run() == console
    assert _state(run.box / "out") == written
    assert run.files() == files
    pd.testing.assert_frame_equal(run.table(), table)


def _check_that_each_file_is_told_once(run: Run) -> None:
    files = run.files()
    told = Counter(one["file"] for one in files)
    assert all(bool(one["reason"]) == (one["outcome"] != "taken") for one in files)
    assert not any(MARK in one["reason"] for one in files)
    there = [str(path) for path in (run.box / "in").rglob("*") if path.is_symlink() or not path.is_dir()]
    for name in there:
        inside = [one for one in told if one.startswith(f"{name}!/")]
        assert told[name] == (0 if inside else 1), (name, told[name], inside)
    for name, count in told.items():
        whole = name.partition("!/")[0]
        assert count == 1 or name not in (whole, *there), (name, count)
        assert any(whole == one or whole.startswith(f"{one} ") for one in there), name


def _check_that_the_sound_part_is_as_ever(run: Run, sound: Run) -> None:
    expected = sound.table()
    found = run.table()
    found = found[found["patient_id"].isin(set(expected["patient_id"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[list(expected.columns)], expected, check_dtype=False)
    assert patient(0, 0) not in found.to_csv()
