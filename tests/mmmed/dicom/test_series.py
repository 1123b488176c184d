from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence

from mmmed.dicom.file import open_dicom
from mmmed.dicom.report import MAX_DEPTH, report_text
from mmmed.dicom.series import Geometry, Slice, geometry, slices_of
from tests.mmmed.dicom.files import CT, dicom

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _stack(count: int = 5, step: float = 2.5, orientation: tuple[float, ...] = AXIAL) -> list[Slice]:
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [tuple(np.array([-50.0, 30.0, 7.0]) + normal * step * i) for i in range(count)]
    return [Slice(i, 0, p, orientation, (0.8, 0.6), (4, 6)) for i, p in enumerate(positions)]  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(6)), angle=st.floats(-1.5, 1.5), step=st.floats(0.5, 10))
def test_slices_are_ordered_along_their_normal_and_the_affine_finds_them(
    order: list[int], angle: float, step: float
) -> None:
    tilted = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
    stack = _stack(6, step, tilted)
    volume = geometry([stack[i] for i in order])
    assert isinstance(volume, Geometry)
    assert [one.file for one in volume.slices] == list(range(6))
    for one, depth in ((stack[0], 0), (stack[5], 5)):
        corner = volume.affine @ [0, 0, depth, 1]
        np.testing.assert_allclose(corner[:3] * [-1, -1, 1], one.position, atol=1e-6)
    row, column = volume.affine[:3, 0] * [-1, -1, 1], volume.affine[:3, 1] * [-1, -1, 1]
    np.testing.assert_allclose(row, np.array(tilted[3:]) * 0.8, atol=1e-9)  # a row further: along the column
    np.testing.assert_allclose(column, np.array(tilted[:3]) * 0.6, atol=1e-9)


def test_irregular_series_are_refused_with_the_reason() -> None:
    stack = _stack(8)
    assert "missing slices: 1 gaps" in str(geometry(stack[:3] + stack[4:]))
    assert "several slices at one position" in str(geometry([*stack, stack[3]]))
    assert "differ in orientation" in str(geometry([*stack, *_stack(1, orientation=(0, 1, 0, 0, 0, -1))]))
    assert "differ in size" in str(geometry([*stack, Slice(9, 0, (0, 0, 99), AXIAL, (0.8, 0.6), (4, 7))]))
    assert "at least 3" in str(geometry(stack[:2]))
    degenerate = [Slice(i, 0, (0, 0, float(i)), (1, 0, 0, 1, 0, 0), (1, 1), (2, 2)) for i in range(4)]
    assert "no valid geometry" in str(geometry(degenerate))


def test_planes_of_single_and_enhanced_objects() -> None:
    single = dicom(np.zeros((4, 6), np.int16), sop_class=CT)
    assert slices_of(single, 3) == []
    single.ImagePositionPatient, single.ImageOrientationPatient, single.PixelSpacing = (
        [1, 2, 3],
        list(AXIAL),
        [0.8, 0.6],
    )
    assert slices_of(single, 3) == [Slice(3, 0, (1, 2, 3), AXIAL, (0.8, 0.6), (4, 6))]
    enhanced = dicom(np.zeros((3, 4, 6), np.int16), sop_class=CT)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient, measures.PixelSpacing = list(AXIAL), [0.8, 0.6]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([plane]), Sequence([measures])
    frames = []
    for depth in range(3):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, depth]
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    enhanced.SharedFunctionalGroupsSequence = Sequence([shared])
    enhanced.PerFrameFunctionalGroupsSequence = Sequence(frames)
    assert [(one.frame, one.position[2]) for one in slices_of(enhanced, 0)] == [(0, 0), (1, 1), (2, 2)]
    assert isinstance(geometry(slices_of(enhanced, 0)), Geometry)


def _node(kind: str, name: str, depth: int = 0, **values: object) -> Dataset:
    node, code = Dataset(), Dataset()
    node.ValueType, code.CodeMeaning = kind, name
    node.ConceptNameCodeSequence = Sequence([code])
    for keyword, value in values.items():
        setattr(node, keyword, value)
    return node


def test_structured_reports_become_text() -> None:
    code, unit, measured = Dataset(), Dataset(), Dataset()
    code.CodeMeaning, unit.CodeMeaning, measured.NumericValue = "Lung", "mm", "12"
    measured.MeasurementUnitsCodeSequence = Sequence([unit])
    findings = _node("CONTAINER", "Findings", ContentSequence=Sequence([
        _node("TEXT", "Finding", TextValue="Nodule."), _node("CODE", "Site", ConceptCodeSequence=Sequence([code])),
        _node("NUM", "Diameter", MeasuredValueSequence=Sequence([measured])),
        _node("PNAME", "Observer", PersonName="Doc^A"),
        _node("TEXT", "Observer", TextValue="Doc", RelationshipType="HAS OBS CONTEXT"),
    ]))  # fmt: skip
    root = _node("CONTAINER", "Chest report", ContentSequence=Sequence([findings]))
    assert report_text(root) == "Findings:\nFinding: Nodule.\nSite: Lung\nDiameter: 12 mm"


def test_report_trees_deeper_than_the_limit_are_refused() -> None:
    node = _node("TEXT", "end", TextValue="x")
    for _ in range(MAX_DEPTH + 1):
        node = _node("CONTAINER", "c", ContentSequence=Sequence([node]))
    with pytest.raises(ValueError, match="deeper"):
        report_text(node)


def test_reports_of_the_corpus(medical_data: Path) -> None:
    texts = {name: report_text(open_dicom(medical_data / "dicom_mini" / "corpus" / name)) for name in (
        "high_sr_document.dcm", "dcmqi_sr.dcm", "cs_report_dfl")}  # fmt: skip
    assert "Finding Site: Cervico-thoracic spine" in texts["high_sr_document.dcm"]
    assert "Finding: Neoplasm, Primary" in texts["dcmqi_sr.dcm"]
    assert "squamous cell carcinoma" in texts["cs_report_dfl"]
