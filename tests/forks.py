"""Programs in processes of their own that are forked from one which has imported what takes longest."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]

_PARENT = """
import json, os, sys, traceback

for line in sys.stdin:
    program, folders, changed, cwd, told = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, name in enumerate(("out", "err"), start=1):
            os.dup2(os.open(os.path.join(told, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        ended = 1
        try:
            os.chdir(cwd)
            os.environ.update(changed)
            sys.path[:0] = folders
            exec(program, {"__name__": "__main__"})
            ended = 0
        except SystemExit as asked:
            ended = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def forks(imported: str) -> Iterator[Run]:
    """A function that runs a program as ``python -c`` does, in a fork of a process that did the `imported` statements.

    It takes the program and, by name, ``folders`` (first on its path), ``environment`` (what is changed) and ``cwd``,
    and returns what the program printed and its exit code, negative after a signal. Where a platform has no forks
    every program is a process from the start.
    """
    with tempfile.TemporaryDirectory() as told:
        path = os.pathsep.join(filter(None, sys.path))
        if not hasattr(os, "fork"):
            yield _from_the_start(path)
            return
        with subprocess.Popen(
            [sys.executable, "-c", f"{imported}\n{_PARENT}"],
            env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as parent:  # fmt: skip
            assert parent.stdin is not None and parent.stdout is not None
            asked, answers = parent.stdin, parent.stdout

            def run(
                program: str,
                *,
                folders: Sequence[Path] = (),
                environment: Mapping[str, str] | None = None,
                cwd: Path | None = None,
            ) -> subprocess.CompletedProcess[str]:
                order = [program, [*map(str, folders)], dict(environment or {}), str(cwd or Path.cwd()), told]
                print(json.dumps(order), file=asked, flush=True)
                code = int(answers.readline())
                out, err = ((Path(told) / name).read_text() for name in ("out", "err"))
                return subprocess.CompletedProcess([program], code, out, err)

            yield run
            asked.close()


def _from_the_start(path: str) -> Run:
    def run(
        program: str,
        *,
        folders: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        path_of_it = os.pathsep.join([*map(str, folders), path])
        return subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": path_of_it} | dict(environment or {}),
            cwd=cwd, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip

    return run
