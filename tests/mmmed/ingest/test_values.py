"""Numbers in units, codes, and the labels made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmmed.errors import ConfigError
from mmmed.ingest.codes import Findings, code
from mmmed.ingest.options import IngestOptions, LabelOptions, TableOptions, ValueOptions, load_options
from mmmed.ingest.records import date, sex
from mmmed.ingest.units import NotUsable, convert, is_unit, number


@pytest.mark.parametrize(
    "value, unit, wanted, molar_mass, expected",
    [
        (1.2, "mg/dL", "mg/L", 0, 12),
        (98.6, "[degF]", "Cel", 0, 37),
        (120, "mmHg", "mm[Hg]", 0, 120),
        (7, "10*3/uL", "10*9/L", 0, 7),
        (7, "/nL", "10*9/L", 0, 7),
        (300, "100/L", "/L", 0, 30_000),
        (88.4, "umol/L", "mg/dL", 113.12, 1.0),
        (1.0, "mg/dL", "µmol/L", 113.12, 88.4),
        (72, "{beats}/min", "/min", 0, 72),
        (70, "kg", "[lb_av]", 0, 154.32),
    ],
)
def test_values_are_converted(
    value: float, unit: str, wanted: str, molar_mass: float, expected: float
) -> None:
    assert convert(value, unit, wanted, molar_mass) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "unit, wanted, reason",
    [("umol/L", "mg/dL", "another kind"), ("", "mg/dL", "without a unit"), ("furlongs", "m", "unknown unit")],
)
def test_what_cannot_be_converted_is_not_guessed(unit: str, wanted: str, reason: str) -> None:
    with pytest.raises(NotUsable, match=reason):
        convert(1.0, unit, wanted)
    with pytest.raises(NotUsable):
        convert(1.0, "Cel", "mg/L", 10.0)
    with pytest.raises(NotUsable):
        convert(1e308, "kg", "ng")
    assert is_unit("mg/L") and not is_unit("furlongs") and not is_unit("")


@pytest.mark.parametrize(
    "text, decimal, expected",
    [("5.3", ".", (5.3, False)), ("< 0.6", ".", (0.6, True)), ("5,3", ",", (5.3, False)), (">=500", ".", (500, True)),
     ("-1e-3", ".", (-0.001, False))],
)  # fmt: skip
def test_numbers_are_read(text: str, decimal: str, expected: tuple[float, bool]) -> None:
    assert number(text, decimal) == expected


@pytest.mark.parametrize(
    "text", ["5,3", "1,200", "n/a", "haemolytic", "nan", "inf", "1e999", "5-7", "", "٣x", "12 mg"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NotUsable, match="not a number"):
        number(text)


@given(st.text(max_size=12))
def test_any_text_is_a_finite_number_or_refused(text: str) -> None:
    for decimal in ".,":
        try:
            value, _ = number(text, decimal)
        except NotUsable:
            continue
        assert abs(value) < float("inf")


@pytest.mark.parametrize(
    "system, value, expected",
    [
        ("http://snomed.info/sct", "1", "SNOMED:1"), ("SCT", "1", "SNOMED:1"), ("LN", "1988-5", "LOINC:1988-5"),
        ("urn:oid:2.16.840.1.113883.6.1", "2", "LOINC:2"),
        ("http://fhir.de/CodeSystem/bfarm/icd-10-gm", "j18.9", "ICD10:J189"),
        ("ICD-10-CM", "S72.001A", "ICD10:S72001A"), ("ICD10", "J18.-", "ICD10:J18"), ("99LOCAL", " x ", "99LOCAL:x"),
    ],
)  # fmt: skip
def test_one_spelling_for_the_codes_of_all_sources(system: str, value: str, expected: str) -> None:
    assert code(system, value) == expected


def test_codes_of_a_table_cell_with_german_signs() -> None:
    found = Findings()
    found.add_cell("ICD10", "J18.9 A; I50.1G, Z95.0Z|K35- Appendizitis SNOMED:60046008")
    assert found.refuted == {"ICD10:J189"}
    assert found.stated == {"ICD10:I501", "ICD10:K35", "SNOMED:60046008"}  # Z95.0 is past
    assert [found.label([one]) for one in ("ICD10:J18", "ICD10:I50", "ICD10:C34", "LOINC:1")] == [
        0,
        1,
        0,
        None,
    ]
    assert Findings().label(["ICD10:J18"]) is None
    american = Findings()
    american.add_cell("ICD10", "S72.001A")
    assert american.stated == {"ICD10:S72001A"} and not american.refuted


def test_a_finding_below_a_wanted_code_counts_and_one_above_does_not() -> None:
    found = Findings()
    found.add(["ICD10:J18"])
    assert found.label(["ICD10:J189"]) == 0 and found.label(["ICD10:J18"]) == 1
    found.add(["SNOMED:600460081"])
    assert found.label(["SNOMED:60046008"]) == 0


def test_coded_answers() -> None:
    found = Findings()
    found.answer(["LOINC:94500-6"], ["SNOMED:260415000"])
    found.answer(["SNOMED:36118008"], ["SNOMED:52101004"])
    found.answer(["LOINC:x"], ["SNOMED:60046008"])
    assert found.refuted == {"LOINC:94500-6"} and found.stated == {"SNOMED:36118008", "SNOMED:60046008"}


@pytest.mark.parametrize(
    "text, expected",
    [("2020-03-10T08:00:00+01:00", "20200310"), ("20200310081500", "20200310"), ("10.3.2020", "20200310"), ("2020",
     None),
     ("20201310", None), ("yesterday", None), ("1234567890", None), ("", ""),
     ("2009-02-30", None), ("03/09/2009", None), ("39881", None), ("09.03.09", None), ("2009.03.09", "20090309"),
     ("2009/3/9", "20090309"), ("31.02.2009", None)],
)  # fmt: skip
def test_dates(text: str, expected: str | None) -> None:
    assert date(text) == expected


def test_sexes() -> None:
    assert [sex(word) for word in ("male", "W", "divers", "unknown", "")] == [
        {"M"},
        {"F"},
        {"O"},
        set(),
        set(),
    ]


def test_the_example_is_valid() -> None:
    options = load_options(Path(__file__).parents[3] / "configs" / "site-ingest.toml")
    assert options.labels["pneumonia"].codes == ("ICD10:J18", "SNOMED:233604007")
    assert [table.files for table in options.tables if table is options.table_of("labs-2020.csv")] == [
        "labs*.csv"
    ]
    assert options.table_of("other.csv") is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("site =", ["not a TOML file"]),
        ("", ["site"]),
        ('site="a"\nx=1', ["x: unknown key"]),
        ('site="a"\n[values.crp]\nunit="furlongs"', ["values.crp.unit", "UCUM"]),
        ('site="a"\n[labels.x]\ntext="a"\ncolumn="b"', ["labels.x", "exactly one"]),
        ('site="a"\n[labels.x]\ncodes=["J18"]', ["labels.x.codes", "SYSTEM:VALUE"]),
        ('site="a"\n[labels.text]\ntext="a"', ["text", "there already"]),
        ('site="a"\n[[tables]]\npatient="p"\nvalues.crp={column="c"}', ["values.crp", "state its unit"]),
        ('site="a"\n[labels.x]\ncodes=["ICD10:J18"]\nsections=["findings"]', ["labels.x", "text alone"]),
    ],
)
def test_a_wrong_file_is_told_by_its_key(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "ingest.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_options(path)
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_columns_may_not_be_named_twice() -> None:
    with pytest.raises(ValueError, match="there already"):
        IngestOptions(
            site="a",
            tables=(TableOptions(patient="p", keep=("crp",)),),
            values={"crp": ValueOptions(unit="mg/L")},
        )
    with pytest.raises(ValueError, match="there already"):
        IngestOptions(site="a", labels={"image": LabelOptions(text="x")})
