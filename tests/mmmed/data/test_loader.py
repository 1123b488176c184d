from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmmed.data.augment import view
from mmmed.data.batch import Input
from mmmed.data.chance import record_key, uniforms
from mmmed.data.loader import PatientBatches, Records
from mmmed.data.stored import Stored


class Rows:
    """Images whose every pixel is the record's number plus one."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __getitem__(self, indices: np.ndarray) -> torch.Tensor:
        assert (indices < self._count).all()
        return (torch.from_numpy(indices).float() + 1)[:, None, None, None].expand(-1, 1, 8, 8) / 1000


def records_of(patients: list[int], *, offset: int = 0, missing: frozenset[int] = frozenset()) -> Records:
    """Records whose patients are numbered 0.., standing `offset` rows into the site's tensors."""
    total = offset + len(patients)
    names, codes = np.unique(patients, return_inverse=True)
    return Records(
        modalities={
            "image": Stored(
                Rows(total), torch.tensor([[row - offset not in missing] for row in range(total)])
            ),
            "text": Stored(torch.arange(total)[:, None], torch.ones(total, 1, dtype=torch.bool)),
        },
        label=torch.arange(total) % 2,
        patient=codes.astype(np.int64),
        names=tuple(map(str, names)),
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
    batches = PatientBatches(records, records_per_patient=limit, seed=0)
    batch = batches(0, drawn)
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
    batches = PatientBatches(records_of([0, 1]), records_per_patient=1, seed=0, augment=True, views=2)
    batch = batches(0, np.empty(0, dtype=np.int64))
    assert len(batch) == 0
    assert batch.inputs["image"].values.shape == (0, 1, 8, 8)
    assert batch.inputs["image"].present.shape == batch.inputs["text"].values.shape == (0, 1)
    assert batch.unit.dtype == torch.int64


def test_all_records_of_a_patient_come_up_over_time() -> None:
    batches = PatientBatches(records_of([0] * 6), records_per_patient=2, seed=0)
    seen = {
        int(row) for step in range(50) for row in batches(step, np.array([0])).inputs["text"].values[:, 0]
    }
    assert seen == set(range(6))


def pictured(records: list[tuple[str, int]], missing: frozenset[int] = frozenset()) -> Records:
    """Records of (patient, what the record shows): an image and a volume of it; what is `missing` is not there."""
    contents = [content for _, content in records]
    shapes = {"image": (1, 12, 12), "volume": (1, 6, 6, 6), "text": (3,)}
    there = torch.tensor([[content not in missing] for content in contents])
    names, codes = np.unique([patient for patient, _ in records], return_inverse=True)
    return Records(
        modalities={name: Stored(pictures(contents, shape), there) for name, shape in shapes.items()},
        label=torch.tensor(contents) % 2,
        patient=codes.astype(np.int64),
        names=tuple(names.tolist()),
        rows=np.arange(len(records)),
    )


def pictures(contents: list[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Noise that only its number decides."""
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(c)) for c in contents])


def test_views_are_seeded_and_leave_missing_images_blank() -> None:
    records = pictured([("A", 0), ("B", 1), ("C", 2), ("C", 3)], missing=frozenset({1}))

    def images(seed: int, step: int, augment: bool = True) -> torch.Tensor:
        batches = PatientBatches(records, records_per_patient=2, seed=seed, augment=augment, views=2)
        return batches(step, np.arange(3)).inputs["image"].values

    seen, plain = images(1, 0), images(1, 0, augment=False)
    assert torch.equal(images(1, 0), seen)
    assert type(seen) is torch.Tensor and seen.shape == (8, 1, 12, 12) and seen.dtype == torch.float32
    assert (seen[2:4] == 0).all()
    assert seen.min() >= -1e-5 and seen.max() <= 1 + 1e-5
    others = [images(2, 0), images(1, 1), plain, seen.flip(0).roll(2, 0)]
    assert all(not torch.equal(seen, other) for other in others)
    assert not torch.equal(seen[0::2], seen[1::2])  # two views of each
    assert torch.equal(plain[0::2], plain[1::2])


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_nobody_else_changes_what_a_batch_holds_of_a_patient(data: st.DataObject) -> None:
    """Add a patient with any number of records, anywhere in the table and in the order of names, to any batches."""
    patients = st.sampled_from(["B", "D", "F", "H"])
    without = [
        (p, n) for n, p in enumerate(data.draw(st.lists(patients, min_size=1, max_size=12), label="table"))
    ]
    newcomer = data.draw(st.sampled_from(["A", "E", "I"]), label="newcomer")
    added = list(without)
    for number in range(data.draw(st.integers(1, 6), label="records")):
        added.insert(data.draw(st.integers(0, len(added)), label="place"), (newcomer, 100 + number))
    how: dict[str, Any] = {"records_per_patient": 2, "seed": 3, "augment": True}
    how |= {"views": data.draw(st.integers(1, 3)), "modality_dropout": data.draw(st.sampled_from([0.0, 0.5]))}
    one, other = (
        (records, PatientBatches(records, **how)) for records in (pictured(without), pictured(added))
    )
    for step in range(3):
        drawn = data.draw(st.sets(st.sampled_from(sorted({p for p, _ in without}))), label="drawn")
        before, after = (
            of_patients(records, batches, step, drawn | extra)
            for (records, batches), extra in ((one, set()), (other, {newcomer}))
        )
        assert before.keys() == drawn and after.keys() == drawn | {newcomer}
        for patient in drawn:
            assert all(map(torch.equal, before[patient], after[patient]))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=12),
    st.sets(st.integers(0, 9)),
    st.floats(0.01, 0.99),
    st.integers(1, 2),
)
def test_modality_dropout_leaves_a_record_one_of_what_it_has_and_adds_nothing(
    table: list[tuple[int, int]], missing: set[int], share: float, views: int
) -> None:
    records = pictured([(str(patient), content) for patient, content in table], frozenset(missing))
    batches = [
        PatientBatches(
            records, records_per_patient=9, seed=1, augment=views > 1, views=views, modality_dropout=p
        )
        for p in (0.0, share)
    ]
    whole, dropped = (batch(2, np.arange(records.patients)).inputs for batch in batches)
    before, after = (
        torch.cat([one.present for one in inputs.values()], dim=1) for inputs in (whole, dropped)
    )
    assert not (after & ~before).any() and torch.equal(after.any(1), before.any(1))
    for name, one in whole.items():
        assert torch.equal(one.values, dropped[name].values)


def test_modality_dropout_drops_each_modality_by_its_share_and_anew_each_step() -> None:
    records = pictured([(str(n), 0) for n in range(60)])
    batches = PatientBatches(records, records_per_patient=1, seed=0, modality_dropout=0.3)
    steps = [batches(step, np.arange(60)).inputs for step in range(10)]
    kept = torch.stack([torch.cat([one.present for one in inputs.values()], dim=1) for inputs in steps])
    gone = 0.3 - 0.3**3 / 3  # one of three stays where all would go
    np.testing.assert_allclose(1 - kept.double().mean((0, 1)), [gone] * 3, atol=0.07)
    assert len({one.numpy().tobytes() for one in kept}) == 10


def of_patients(
    records: Records, batches: PatientBatches, step: int, drawn: set[str]
) -> dict[str, list[torch.Tensor]]:
    """All that a batch holds of each patient."""
    codes = np.array([code for code, name in enumerate(records.names) if name in drawn], dtype=np.int64)
    batch = batches(step, codes)
    return {
        records.names[code]: [
            tensor
            for one in batch[torch.nonzero(batch.unit == unit)[:, 0]].inputs.values()
            for tensor in (one.values, one.present)
        ]
        for unit, code in enumerate(codes)
    }


@pytest.mark.parametrize("dimensions", [2, 3])
def test_views_move_what_is_there_a_little_and_each_record_its_own_way(dimensions: int) -> None:
    side = 24
    axes = np.meshgrid(*[np.arange(side)] * dimensions, indexing="ij")
    centre = np.array([9.0, 13, 12][:dimensions])
    ball = sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)) < 5**2
    given = Input(
        torch.from_numpy(np.asarray(ball, np.float32)).expand(40, 1, *ball.shape),
        torch.ones(40, 1, dtype=torch.bool),
    )
    views = view(given, uniforms("views", [record_key("A", n) for n in range(40)])).values[:, 0].numpy()
    moved = []
    for one in views:
        found = np.array([(one * axis).sum() for axis in axes]) / one.sum()
        moved.append(np.abs(found - centre))
        assert moved[-1].max() < 3.5 and 0.8 < one.sum() / ball.sum() < 1.25
    assert (np.max(moved, axis=0) > 0.3).all()  # along every axis
    whole = [one for one, far in zip(views, moved, strict=True) if far.max() < 1e-6]
    assert 1 <= len(whole) <= 16 and len({one.tobytes() for one in views}) == 41 - len(whole)


def test_evaluation_batches_cover_every_record_once_in_order() -> None:
    records = records_of([3, 3, 1, 2, 2], offset=2)
    batches = list(records.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.inputs["text"].values[:, 0] for batch in batches]).tolist() == [2, 3, 4, 5, 6]
    assert records.labels.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_batch_moves_whole(device: str) -> None:
    batch = PatientBatches(records_of([0, 1]), records_per_patient=1, seed=0)(0, np.arange(2))
    moved = batch.to(torch.device(device))
    tensors = [moved.label, moved.unit]
    tensors += [tensor for one in moved.inputs.values() for tensor in (one.values, one.present)]
    assert len(tensors) == 6 and all(tensor.device.type == device for tensor in tensors)
