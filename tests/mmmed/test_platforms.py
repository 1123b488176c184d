"""The researcher's commands need no POSIX system: they run where Windows' Python would have them run.

The commands run in processes, workers among them, in which mmmed's own modules find what Windows has: no module that
only POSIX systems have, no such function of `os` or `signal`, and the names of that system. Other libraries choose for
themselves what they import on a platform, so they see the machine as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from client.node.folder import NodeFolder
from mmmed.errors import DeployError
from server.deployment.folder import Folder

_WINDOWS = '''
import builtins
import os
import signal
import sys
import types

POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": """chown chroot fchmod fchown fork forkpty getegid geteuid getgid getgroups getpgid getpgrp getpriority getsid
        getuid initgroups killpg lchown lockf mkfifo mknod nice openpty pathconf pread pwrite posix_fallocate
        posix_spawn sched_getaffinity sched_setaffinity sendfile setegid seteuid setgid setpgid setpriority setsid
        setuid statvfs sync sysconf tcgetpgrp uname wait wait3 wait4 writev O_CLOEXEC O_DIRECTORY O_NOFOLLOW
        O_NONBLOCK O_SYNC WNOHANG""".split(),
    "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pthread_kill
        pthread_sigmask setitimer sigwait""".split(),
}
OURS = {"mmmed", "privacy", "client", "server", "simulations"}


def narrowed(module, names, **changed):
    other = types.ModuleType(module.__name__)
    other.__dict__.update({k: v for k, v in vars(module).items() if k not in names} | changed)
    return other


_real = builtins.__import__
_open = os.open


def _open_files_alone(path, flags, mode=0o777):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return _open(path, flags, mode)


_seen = {
    "os": narrowed(os, POSIX_NAMES["os"], name="nt", open=_open_files_alone),
    "signal": narrowed(signal, POSIX_NAMES["signal"]),
    "sys": narrowed(sys, (), platform="win32"),
}


def _import(name, globals=None, locals=None, fromlist=(), level=0):
    asking = (globals or {}).get("__name__", "").partition(".")[0]
    if asking in OURS and level == 0:
        if name in POSIX_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}: {globals['__name__']} asks for it", name=name)
        if name in _seen:
            return _seen[name]
    return _real(name, globals, locals, fromlist, level)


builtins.__import__ = _import
'''


def _mmmed(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(_WINDOWS, encoding="utf-8")
    program = f"""
import sys
import sitecustomize
assert sitecustomize.OURS
sys.argv[1:] = {[str(argument) for argument in arguments]!r}
from mmmed.cli import main
main()
"""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path, "MMMED_HOME": str(folder / "home")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_a_run_is_simulated_evaluated_reported_and_verified(hospitals: Path, tmp_path: Path) -> None:
    small = (
        "data.image_size=32",
        "data.text_tokens=16",
        "model.image_width=8",
        "model.fusion_dim=16",
        "training.batch_size=8",
        "training.local_epochs=1",
        "privacy.delta=0.01",
    )
    settings = [word for setting in (*small, "federation.rounds=1") for word in ("--set", setting)]
    for arguments in (
        ("simulate", "--data", hospitals, *settings, "--workers", 1, "--out", "run"),
        ("evaluate", "run"),
        ("privacy", "report", "run"),
        ("privacy", "verify", "run/report/privacy.json"),
    ):
        done = _mmmed(tmp_path, *arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)


def test_a_budget_is_planned(tmp_path: Path) -> None:
    done = _mmmed(tmp_path, "privacy", "plan", "--patients", 600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [("site", "init", "north"), ("server", "start")])
def test_a_federation_names_the_system_that_it_needs(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = _mmmed(tmp_path, *arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "Linux" in done.stderr and "Windows" in done.stderr
    assert not (tmp_path / "site").exists()


def test_macos_is_told_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (NodeFolder, Folder):
        with (
            monkeypatch.context() as there,
            pytest.raises(DeployError, match="Linux alone, and this is macOS"),
        ):
            there.setattr(sys, "platform", "darwin")
            folder(tmp_path)
