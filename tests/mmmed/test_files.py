from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmmed.files import exclusive, replacing, write_atomic


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, "old")
    with replacing(file) as partial:
        assert partial.suffix == ".json" and partial.read_bytes() == b""
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("durable", [True, False])
def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path, durable: bool) -> None:
    file = tmp_path / "a"
    write_atomic(file, b"old", durable=durable)
    with pytest.raises(ZeroDivisionError), replacing(file, durable=durable) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_kill_leaves_the_file_as_it_was_and_the_next_writer_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomic(file, "old")
    script = (
        "import os, signal, sys, pathlib; from mmmed.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    write_atomic(file, "new")
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_a_private_file_is_never_readable_by_others(tmp_path: Path) -> None:
    file = tmp_path / "key"
    (tmp_path / ".part-key").write_text("of a killed process")
    (tmp_path / ".part-key").chmod(0o644)
    with replacing(file, mode=0o600) as partial:
        assert partial.stat().st_mode & 0o077 == 0
    assert file.stat().st_mode & 0o077 == 0


def busy() -> Exception:
    return RuntimeError("busy")


def test_one_holder_at_a_time_and_a_block_that_fails_gives_the_lock_up(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with exclusive(file, busy):
        with pytest.raises(RuntimeError, match="busy"), exclusive(file, busy):
            raise AssertionError("held twice")
        with (
            pytest.raises(RuntimeError, match="busy"),
            exclusive(file, busy),
        ):  # the first is not disturbed by it
            raise AssertionError("held twice")
    with pytest.raises(ZeroDivisionError), exclusive(file, busy):
        raise ZeroDivisionError
    with exclusive(file, busy):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    script = (
        "import sys, pathlib; from mmmed.files import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), RuntimeError):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(file)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match="busy"), exclusive(file, busy):
            raise AssertionError("held twice")
        holder.kill()
        holder.wait()
        with exclusive(file, busy):
            pass
