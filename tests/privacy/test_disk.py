from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from privacy.disk import write_durable

ROOT = Path(__file__).parents[2]
_WRITER = (
    "import sys, pathlib; from privacy.disk import write_durable\n"
    "for _ in range(40): write_durable(pathlib.Path(sys.argv[1]), sys.argv[2].encode() * 100_000)"
)


def test_several_may_write_one_file_and_it_is_seen_whole(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_durable(file, b"a" * 100_000)
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(file), letter], cwd=ROOT) for letter in "bcd"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        content = file.read_bytes()
        assert len(content) == 100_000 and len(set(content)) == 1
        seen.add(content[:1])
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(seen) > 1 and list(tmp_path.iterdir()) == [file]
