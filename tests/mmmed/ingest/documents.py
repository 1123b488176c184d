"""Small valid documents for tests."""

from __future__ import annotations

from collections.abc import Sequence

_SYSTEMS = {
    "LOINC": "2.16.840.1.113883.6.1",
    "SNOMED": "2.16.840.1.113883.6.96",
    "ICD10": "2.16.840.1.113883.6.90",
}


def section(code: str, title: str, text: str, entries: str = "") -> str:
    """A section with its LOINC code, narrative block and entries."""
    return (
        f'<section><code code="{code}" codeSystem="{_SYSTEMS["LOINC"]}"/><title>{title}</title>'
        f"<text>{text}</text>{entries}</section>"
    )


def entry(
    value: str, *, code: str = "55607006", system: str = "SNOMED", attributes: str = "", mood: str = "EVN"
) -> str:
    """An observation with one value element."""
    return (
        f'<entry><act classCode="ACT" moodCode="EVN"><entryRelationship typeCode="SUBJ">'
        f'<observation classCode="OBS" moodCode="{mood}" {attributes}>'
        f'<code code="{code}" codeSystem="{_SYSTEMS[system]}"/><statusCode code="completed"/>{value}'
        "</observation></entryRelationship></act></entry>"
    )


def coded(code: str, system: str = "SNOMED", inner: str = "") -> str:
    """A coded value."""
    return f'<value xsi:type="CD" code="{code}" codeSystem="{_SYSTEMS[system]}">{inner}</value>'


def ccda_document(
    patient: str = "MHH111111",
    accession: str = "ACC00001",
    name: tuple[str, str] = ("Erika", "Muster"),
    study: str = "1.2.3.4",
    sections: Sequence[str] | None = None,
) -> str:
    """A diagnostic imaging report of a patient."""
    if sections is None:
        icd = f'<translation code="J18.9" codeSystem="{_SYSTEMS["ICD10"]}"/>'
        sections = [
            section("55752-0", "History", f"{' '.join(name)} has a cough.<list><item>Smoker</item></list>"),
            section(
                "18782-3", "Findings",
                "<table><tbody><tr><td>Lungs</td><td>clear</td></tr></tbody></table>"
                "<paragraph>Small effusion on the left.</paragraph>",
            ),
            section("10160-0", "Medications", "Aspirin"),
            section("19005-8", "Impression", "Pneumonia &amp; effusion."),
            section(
                "11450-4", "Problems", "",
                entry(coded("233604007", inner=icd)) + entry(coded("36118008"), attributes='negationInd="true"'),
            ),
            section("10157-6", "Family history", "", entry(coded("22298006"))),
            section("18776-5", "Plan", "", entry(coded("73211009"))),
            section(
                "30954-2", "Results", "",
                entry('<value xsi:type="PQ" value="120" unit="mg/L"/>', code="1988-5", system="LOINC")
                + entry('<value xsi:type="PQ" value="7" unit="mg/L"/>', code="1988-5", system="LOINC", mood="GOL"),
            ),
        ]  # fmt: skip
    body = "".join(f"<component>{one}</component>" for one in sections)
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <realmCode code="US"/><typeId root="2.16.840.1.113883.1.3" extension="POCD_HD000040"/>
 <id root="2.16.840.1.113883.19.5" extension="1"/>
 <code code="18748-4" codeSystem="{_SYSTEMS["LOINC"]}"/><title>Diagnostic Imaging Report</title>
 <effectiveTime value="20200311120000+0100"/><confidentialityCode code="N"/><languageCode code="en-US"/>
 <recordTarget><patientRole><id root="1.2" extension="{patient}"/>
  <addr><streetAddressLine>Hauptstr. 5</streetAddressLine><city>Hannover</city></addr>
  <telecom value="tel:+49-511-123456"/>
  <patient><name><given>{name[0]}</given><family>{name[1]}</family></name>
   <administrativeGenderCode code="F" codeSystem="2.16.840.1.113883.5.1"/><birthTime value="19530323"/></patient>
 </patientRole></recordTarget>
 <author><time value="20200311"/><assignedAuthor><id root="1.2" extension="A4711"/>
  <assignedPerson><name>Karl Arzt</name></assignedPerson>
  <representedOrganization><name>Radiology Chest</name></representedOrganization></assignedAuthor></author>
 <custodian><assignedCustodian><representedCustodianOrganization><id root="1.3"/></representedCustodianOrganization>
 </assignedCustodian></custodian>
 <inFulfillmentOf><order><id root="1.4" extension="{accession}"/></order></inFulfillmentOf>
 <documentationOf><serviceEvent classCode="ACT"><effectiveTime><low value="20200310"/></effectiveTime>
 </serviceEvent></documentationOf>
 <component><structuredBody>{body}
  <component><section><code code="121181" codeSystem="1.2.840.10008.2.16.4"/>
   <entry><act classCode="ACT" moodCode="EVN"><id root="{study}"/>
    <code code="113014" codeSystem="1.2.840.10008.2.16.4"/></act></entry>
  </section></component>
 </structuredBody></component>
</ClinicalDocument>"""
