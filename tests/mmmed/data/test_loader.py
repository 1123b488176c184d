from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmmed.config import DataConfig
from mmmed.data.augment import Augmentation
from mmmed.data.batch import Batch, Input
from mmmed.data.loader import PatientBatches, Records
from mmmed.data.modalities import Modality


class Rows:
    """Images whose every pixel is the record's number plus one."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __getitem__(self, indices: np.ndarray) -> torch.Tensor:
        assert (indices < self._count).all()
        return (torch.from_numpy(indices).float() + 1)[:, None, None, None].expand(-1, 1, 8, 8) / 1000


def augmentation(size: int, seed: int) -> Augmentation:
    """Of images of `size` (the configuration's limits are not asked)."""
    return Augmentation(DataConfig.model_construct(**vars(DataConfig()) | {"image_size": size}), seed)


def records_of(patients: list[int], *, offset: int = 0, missing: frozenset[int] = frozenset()) -> Records:
    """Records whose patients are numbered 0.., standing `offset` rows into the site's tensors."""
    total = offset + len(patients)
    names, codes = np.unique(patients, return_inverse=True)
    return Records(
        modalities={
            "image": Modality(
                Rows(total), torch.tensor([[row - offset not in missing] for row in range(total)])
            ),
            "text": Modality(torch.arange(total)[:, None], torch.ones(total, 1, dtype=torch.bool)),
        },
        label=torch.arange(total) % 2,
        patient=codes.astype(np.int64),
        patients=len(names),
        rows=np.arange(offset, total),
    )


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.integers(1, 4),
    st.sets(st.integers(0, 9)),
    st.integers(0, 3),
)
def test_a_batch_holds_each_drawn_patient_at_most_k_times(
    patients: list[int], limit: int, wanted: set[int], offset: int
) -> None:
    records = records_of(patients, offset=offset)
    drawn = np.array(sorted(p for p in wanted if p < records.patients), dtype=np.int64)
    batches = PatientBatches(records, records_per_patient=limit, seed=0, augmentation=None)
    batch = batches(drawn)
    for unit, patient in enumerate(drawn):
        rows = batch.inputs["text"].values[batch.unit == unit, 0].numpy() - offset
        own = np.flatnonzero(records.patient == patient)
        assert len(rows) == min(limit, len(own))
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(own)
    assert len(batch) == int((batch.unit >= 0).sum())
    # every column of a record belongs to the same record
    number = batch.inputs["text"].values[:, 0]
    assert torch.allclose(batch.inputs["image"].values[:, 0, 0, 0] * 1000, number.float() + 1)
    assert torch.equal(batch.label, number % 2)


def test_an_empty_draw_gives_an_empty_batch_of_the_right_shapes() -> None:
    batches = PatientBatches(
        records_of([0, 1]), records_per_patient=1, seed=0, augmentation=augmentation(8, seed=0)
    )
    batch = batches(np.empty(0, dtype=np.int64))
    assert len(batch) == 0
    assert batch.inputs["image"].values.shape == (0, 1, 8, 8)
    assert batch.inputs["image"].present.shape == batch.inputs["text"].values.shape == (0, 1)
    assert batch.unit.dtype == torch.int64


def test_all_records_of_a_patient_come_up_over_time() -> None:
    batches = PatientBatches(records_of([0] * 6), records_per_patient=2, seed=0, augmentation=None)
    seen = {int(row) for _ in range(50) for row in batches(np.array([0])).inputs["text"].values[:, 0]}
    assert seen == set(range(6))


def test_augmentation_is_seeded_and_leaves_missing_images_blank() -> None:
    def view(seed: int) -> torch.Tensor:
        records = records_of([0, 1, 2], missing=frozenset({1}))
        batches = PatientBatches(
            records, records_per_patient=1, seed=0, augmentation=augmentation(8, seed=seed)
        )
        return batches(np.arange(3)).inputs["image"].values

    assert torch.equal(view(1), view(1))
    assert (view(1)[1] == 0).all()
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    given = Input(image, torch.ones(4, 1, dtype=torch.bool))
    batch = Batch({"image": given}, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    moved, other = (augmentation(16, seed=n)(batch).inputs["image"].values for n in (1, 2))
    assert type(moved) is torch.Tensor
    assert moved.shape == image.shape and moved.dtype == torch.float32
    assert not torch.equal(moved, other)
    assert moved.min() >= -1e-5 and moved.max() <= 1 + 1e-5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_views_move_what_is_there_a_little_and_each_record_its_own_way(dimensions: int) -> None:
    side = 24
    name = "image" if dimensions == 2 else "volume"
    axes = np.meshgrid(*[np.arange(side)] * dimensions, indexing="ij")
    centre = np.array([9.0, 13, 12][:dimensions])
    ball = sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)) < 5**2
    given = Input(
        torch.from_numpy(np.asarray(ball, np.float32)).expand(40, 1, *ball.shape),
        torch.ones(40, 1, dtype=torch.bool),
    )
    batch = Batch({name: given}, torch.zeros(40, dtype=torch.int64), torch.arange(40))
    data = DataConfig(image="i", volume="v", image_size=side, volume_size=side).model_copy(
        update={"image" if name == "volume" else "volume": ""}
    )
    views = Augmentation(data, seed=0)(batch).inputs[name].values[:, 0].numpy()
    moved = []
    for view in views:
        found = np.array([(view * axis).sum() for axis in axes]) / view.sum()
        moved.append(np.abs(found - centre))
        assert moved[-1].max() < 3.5 and 0.8 < view.sum() / ball.sum() < 1.25
    assert (np.max(moved, axis=0) > 0.3).all()  # along every axis
    whole = [one for one, far in zip(views, moved, strict=True) if far.max() < 1e-6]
    assert 1 <= len(whole) <= 16 and len({view.tobytes() for view in views}) == 41 - len(whole)


def test_evaluation_batches_cover_every_record_once_in_order() -> None:
    records = records_of([3, 3, 1, 2, 2], offset=2)
    batches = list(records.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.inputs["text"].values[:, 0] for batch in batches]).tolist() == [2, 3, 4, 5, 6]
    assert records.labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_batch_moves_whole(device: str) -> None:
    batch = PatientBatches(records_of([0, 1]), records_per_patient=1, seed=0, augmentation=None)(np.arange(2))
    moved = batch.to(torch.device(device))
    tensors = [moved.label, moved.unit]
    tensors += [tensor for one in moved.inputs.values() for tensor in (one.values, one.present)]
    assert len(tensors) == 6 and all(tensor.device.type == device for tensor in tensors)
