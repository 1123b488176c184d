"""Features kept on disk: the same as computed afresh, whatever happened to the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmmed.data.augment import view
from mmmed.data.batch import Input
from mmmed.data.features import FeatureFile, FeatureRows, forget_features
from mmmed.data.stored import Stored
from mmmed.errors import DataError

N, SHAPE = 12, (1, 3)


class Encoder:
    """Three sums of a record's values; counts the different records that it encoded."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, given: Input) -> torch.Tensor:
        flat = given.values.flatten(1).double()
        self.encoded += len(flat.unique(dim=0))  # a call is filled up with copies
        return torch.stack([flat.sum(1), flat.square().sum(1), flat[:, 0]], 1)[:, None].float()


def modality(seed: int = 0) -> Stored:
    values = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Stored(values, torch.ones(N, 1, dtype=torch.bool))


def opened(path: Path, encoder: Encoder, given: Stored, views: int = 1) -> FeatureRows:
    return FeatureRows(given, encoder, FeatureFile(path, SHAPE), view=view, views=views)


def expected(given: Stored) -> torch.Tensor:
    return Encoder()(given[np.arange(N)])


def test_each_record_is_encoded_once_and_only_when_it_is_needed(tmp_path: Path) -> None:
    given, encoder, path = modality(), Encoder(), tmp_path / "a.rows"
    rows = opened(path, encoder, given)
    order = np.array([3, 1, 3, 7])
    assert torch.equal(rows[order], expected(given)[order])
    assert encoder.encoded == 3
    again = opened(path, encoder, given)
    assert torch.equal(again[np.arange(N)], expected(given))
    assert encoder.encoded == N
    other = modality(seed=1)  # other content, the same file names and rows
    assert torch.equal(opened(path, encoder, other)[order], expected(other)[order])


def test_two_processes_see_each_others_rows(tmp_path: Path) -> None:
    given, encoder, path = modality(), Encoder(), tmp_path / "a.rows"
    first, second = (opened(path, encoder, given) for _ in range(2))
    first[np.arange(8)]
    assert torch.equal(second[np.arange(N)], expected(given))
    assert encoder.encoded == N


def cut_in_a_row(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def change_a_value(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)


def change_a_key(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_in_a_row, change_a_value, change_a_key])
def test_a_damaged_row_is_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    given, encoder, path = modality(), Encoder(), tmp_path / "a.rows"
    opened(path, encoder, given)[np.arange(N)]
    damage(path)
    for _ in range(2):
        assert torch.equal(opened(path, encoder, given)[np.arange(N)], expected(given))
    assert encoder.encoded == N + 1


def test_views_are_fixed_and_the_first_is_the_record_itself(tmp_path: Path) -> None:
    given, path = modality(), tmp_path / "a.rows"
    one = Stored(opened(path, Encoder(), given, views=3), given.present, fixed_views=3)
    rows = np.array([4, 4, 4, 5])
    found = one.view(rows, np.array([0, 1, 2, 3])).values
    assert torch.equal(found[[0, 3]], expected(given)[[4, 5]])  # view 3 of three is view 0
    assert len(found[:3].unique(dim=0)) == 3
    again = Stored(opened(path, Encoder(), given, views=3), given.present, fixed_views=3)
    assert torch.equal(again.view(rows, np.array([0, 1, 2, 3])).values, found)


def test_features_that_are_forgotten_while_in_use_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.rows"
    file = FeatureFile(path, SHAPE)
    file.append([bytes([n]) * 32 for n in range(3)], np.ones((3, *SHAPE), np.float32))
    forget_features(tmp_path)
    assert not path.exists()
    with pytest.raises(DataError, match="removed while it was in use"):
        file.append([b"x" * 32], np.ones((1, *SHAPE), np.float32))
    fresh = FeatureFile(path, SHAPE)
    fresh.append([b"y" * 32], np.full((1, *SHAPE), 2, np.float32))
    slot = fresh.find(b"y" * 32)
    assert slot is not None and (fresh.read(np.array([slot])) == 2).all()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"features of frozen encoders.*MMMED_HOME"):
        FeatureFile(tmp_path / "file" / "a.rows", SHAPE)


def test_a_kill_leaves_only_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.rows"
    script = f"""
import numpy as np
from tests.mmmed.data.test_features import FeatureFile, SHAPE
from pathlib import Path
file = FeatureFile(Path({str(path)!r}), SHAPE)
print("ready", flush=True)
for number in range(10**9):
    file.append([number.to_bytes(32, "big")], np.full((1, *SHAPE), number, np.float32))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    while not path.exists() or path.stat().st_size < 4000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    file = FeatureFile(path, SHAPE)
    file.append([b"x" * 32], np.ones((1, *SHAPE), np.float32))  # the lock died with its holder
    slots = [file.find(number.to_bytes(32, "big")) for number in range(40)]
    assert None not in slots
    assert np.array_equal(file.read(np.array(slots))[:, 0, 0], np.arange(40))
