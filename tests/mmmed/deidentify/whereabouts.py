"""Invented sentences that name towns and institutions, each with the words that must go, and ones that must stay whole.

`DEVELOPED` was in sight when the rules were written. `APART` was written before them and looked at afterwards alone.
"""

from __future__ import annotations

DEVELOPED = [
    ("Transferred from Willowbrook General Hospital for angiography.", "Willowbrook"),
    ("TRANSFERRED FROM WILLOWBROOK GENERAL HOSPITAL.", "WILLOWBROOK"),
    ("She was seen at St. Brendan's last week.", "Brendan"),
    ("Outside films from St Kieran Medical Center reviewed.", "Kieran"),
    ("Admitted to Harlow Creek Infirmary with fever.", "Harlow"),
    ("62-year-old man from Dunmore presents with cough.", "Dunmore"),
    ("Patient is from Castlebridge, a retired miner.", "Castlebridge"),
    ("Follow up at the Pemberton Clinic in two weeks.", "Pemberton"),
    ("He moved to Ashgrove after his stroke.", "Ashgrove"),
    ("GP practice in Ellerby informed.", "Ellerby"),
    ("Recent travel to Nakuru and Kisumu.", "Nakuru Kisumu"),
    ("Facility: Oakhurst Imaging Center", "Oakhurst"),
    ("Place of birth: Torrington", "Torrington"),
    ("Lives with his wife in Fernhill, two stairs.", "Fernhill"),
    ("Referred by Whitcombe NHS Trust.", "Whitcombe"),
    ("Resident of Maple Court Nursing Home.", "Maple"),
    ("Address: Tillman, OH 44123", "Tillman"),
    ("12 Beech Road, Ottersby LS1 3EX", "Ottersby"),
    ("She works in Brackley as a teacher.", "Brackley"),
    ("University of Eastmere Hospital records requested.", "Eastmere"),
    ("Verlegung aus dem Klinikum Rabenau zur Koronarangiographie.", "Rabenau"),
    ("Vorbefund aus dem Universitätsklinikum Erlstadt liegt vor.", "Erlstadt"),
    ("Zuverlegt aus Dörnfeld nach Sturz.", "Dörnfeld"),
    ("Operiert im St. Gallus-Krankenhaus.", "Gallus"),
    ("Behandlung im Kreiskrankenhaus Bad Weilbach.", "Weilbach"),
    ("Der Patient kommt aus Lindenrode.", "Lindenrode"),
    ("Reha in Bad Kreuzau beantragt.", "Kreuzau"),
    ("Praxis Dr. Tamm in Höxtrup.", "Höxtrup"),
    ("Wohnort: Steinhagenau", "Steinhagenau"),
    ("Hauptstraße 5, 34567 Brunnkirchen", "Brunnkirchen"),
    ("Hauptstraße 5 in Ederbach", "Ederbach"),
    ("Aufnahme über die Notaufnahme des Marienhospitals Wesslingen.", "Marienhospital Wesslingen"),
    ("Helios Klinik Talbrück, Kardiologie.", "Talbrück"),
    ("Uniklinik Sarnburg, Radiologie", "Sarnburg"),
    ("Rabenau, den 03.04.2020", "Rabenau"),
    ("Sie lebt im Seniorenheim Abendfrieden.", "Abendfrieden"),
    ("MVZ Ostertal, Befund vom 3.4.2020", "Ostertal"),
    ("A-4020 Lendorf", "Lendorf"),
    ("Arbeitgeber: Stahlwerk Hüttenau", "Hüttenau"),
    ("Er war im Urlaub in Agadir.", "Agadir"),
]  # fmt: skip

APART = [
    ("Prior CT performed at Glenhaven Regional Medical Center.", "Glenhaven"),
    ("PRIOR CT AT GLENHAVEN MEDICAL CENTER.", "GLENHAVEN"),
    ("He was discharged from St. Aidan's on Friday.", "Aidan"),
    ("Care at Saint Columba Hospital.", "Columba"),
    ("She presented to Thornbury Community Hospital first.", "Thornbury"),
    ("A 45 year old woman from Killbrook with dyspnea.", "Killbrook"),
    ("The patient is originally from Vasteras.", "Vasteras"),
    ("Images sent to Hollister Clinic.", "Hollister"),
    ("Returned from Mombasa two weeks ago.", "Mombasa"),
    ("Family doctor in Penwith was called.", "Penwith"),
    ("Hospital: Riverton Memorial", "Riverton"),
    ("Birthplace: Lowestowe", "Lowestowe"),
    ("Grew up in Carrickmore.", "Carrickmore"),
    ("Follow-up with Stanmore Health Centre.", "Stanmore"),
    ("Transferred from Greenacres Care Home.", "Greenacres"),
    ("Resides in Marlowe, TX 75001.", "Marlowe"),
    ("4 Mill Lane, Wrexby", "Wrexby"),
    ("Employed in Danforth at a bakery.", "Danforth"),
    ("Seen by the team of Ravensworth University Hospital.", "Ravensworth"),
    ("He flew in from Tbilisi.", "Tbilisi"),
    ("Übernahme aus dem Krankenhaus Birkenau-Süd.", "Birkenau"),
    ("Im Universitätsspital Altmatt wurde ein CT durchgeführt.", "Altmatt"),
    ("Der Patient stammt aus Oberfelden.", "Oberfelden"),
    ("Die Patientin wurde nach Neuhagen verlegt.", "Neuhagen"),
    ("Z. n. OP im St. Rochus-Hospital Telgen.", "Rochus Telgen"),
    ("Verlegung in das Landeskrankenhaus Mürztal.", "Mürztal"),
    ("Anschlussheilbehandlung in Bad Rappach.", "Rappach"),
    ("Hausarztpraxis in Gersheim informiert.", "Gersheim"),
    ("Geburtsort: Klausdorf", "Klausdorf"),
    ("Am Markt 3, 98765 Tannroda", "Tannroda"),
    ("Lindenweg 12, Jesteburg", "Jesteburg"),
    ("Elisabeth-Krankenhaus Ilmtal, Chirurgie", "Elisabeth Ilmtal"),
    ("Asklepios Klinikum Harzberg.", "Harzberg"),
    ("Herzzentrum Lohsee empfohlen.", "Lohsee"),
    ("Seefeld, den 3. Mai 2021", "Seefeld"),
    ("Bewohnerin im Pflegeheim Sonnenhof.", "Sonnenhof"),
    ("Radiologische Praxis Wendtal", "Wendtal"),
    ("CH-8400 Winterau", "Winterau"),
    ("Einrichtung: Klinik Hohenried", "Hohenried"),
    ("Rückkehr aus Phuket vor 3 Tagen.", "Phuket"),
]  # fmt: skip

STAYS = """
Transferred from ICU to floor. Sample from Left lower lobe. Results from Monday. The patient is from home.
Hospital course uneventful. Seen in Pain Clinic. Discharged from Emergency. Follow up in Cardiology Clinic.
Outpatient Clinic visit. Admitted to Hospital. The Hospital was notified. Transfer to Intensive Care.
Referred from Surgery. Weaned from CPAP. Biopsy from Segment VI. Nursing Home resident. In Hospital since Tuesday.
St. p. Appendektomie. St. n. Sturz. St. post Hysterektomie. ST Elevation in V2. ST Segment normal. ST-Hebung in II.
Zustand nach Stent. Klinik für Kardiologie. Klinik: Husten, Fieber. Verlegung aus Aufwachraum. Kommt aus Pflegeheim.
Behandelt in Narkose. Operiert in Rückenlage. Operiert in Vollnarkose. Lebt in Partnerschaft. Reha in Absprache.
Im Krankenhaus erworben. Krankenhaus Aufenthalt verlängert. Akutkrankenhaus, Kreiskrankenhaus. Augenklinik, Tagesklinik.
HNO-Klinik konsiliarisch. Verlegt nach Stabilisierung. Entlassen nach Hause. Nach Kontrastmittel besser.
Stenosis, MS and Angina, MI 2010. Dilatation, LA normal.
Praxis: keine. Ort: linker Oberlappen. Location: Right Upper Lobe. Chest, PA and lateral. Radiograph, PA. Normal, OK.
Punktion in Lokalanästhesie. Aufnahme in Exspiration. In Seitenlage. Drainage aus Pleura. Blut aus Katheter.
1200 Leukozyten. 5000 Einheiten Heparin. 40 mg Furosemid. 2500 Kalorien. 10000 Einheiten subkutan, 5000 Heparin.
Mild edema. Fluid from Pleura. Travel history negative. Moved to Bed 4. Returned from CT. Return to Clinic as needed.
Flew in by helicopter. Employed, no exposure. Works in Construction. Works in Healthcare. Trip to Bathroom.
Mammographie, den Vorbefund kennend. Befund, den Vorbildern gleich. Urlaub in Aussicht. Arbeitet in Teilzeit.
Institution: unknown. Facility: none. Hospital: no prior. University degree. General condition good. Medical Center.
""".strip()  # fmt: skip


def found(notes: list[tuple[str, str]], scrub: object) -> list[str]:
    """The words that are still there."""
    left = []
    for note, must in notes:
        text = scrub(note)  # type: ignore[operator]
        left += [word for word in must.split() if word in text]
    return left
