"""Notes with invented identifiers of every kind of 45 CFR 164.514(b)(2)(i) that a text can hold, each marked."""

from __future__ import annotations

import random
from collections.abc import Iterator

_NAMES = ["Schmidt", "Öztürk", "O'Neil", "García", "Lindqvist", "van Dyk", "Müller-Lüdenscheidt"]
# {x} is the identifier that must go; what stands around it is how people write it. Letters as in the rule.
_FORMS: dict[str, list[tuple[str, str]]] = {
    "A names": [
        ("Seen by Dr. {x} today.", "name"),
        ("Patient: {x}, stable.", "name"),
        ("Befundet von {x}.", "name"),
        ("Mr. {x} has a cough.", "name"),
        ("Discussed with {x} by phone.", "name"),
        ("Frau {x} klagt.", "name"),
    ],
    "B places": [
        ("lives at {x}.", "12 Main Street"),
        ("wohnt {x}.", "Carl-Neuberg-Str. 1"),
        ("from {x}.", "30625 Hannover"),
        ("She lives in {x}.", "Springfield"),
        ("wohnhaft in {x}.", "Celle"),
        ("of {x} County.", "Adams"),
        ("sent from {x}.", "Mount Sinai Hospital"),
        ("postcode {x}", "SW1A 1AA"),
        ("Ottawa {x}", "K1A 0B1"),
    ],
    "C dates": [
        ("on {x}.", "2021-03-04"),
        ("CT of {x}:", "04.03.2021"),
        ("{x}: better", "4 March 2021"),
        ("am {x} operiert", "4. März"),
        ("admitted {x} with fever", "3/14"),
        ("entlassen am {x} nach Hause", "14.3."),
        ("in {x}", "March 2021"),
        ("a {x}-year-old man", "94"),
        ("on {x}", "Mar 4, 2021"),
        ("CT {x}:", "5-MAY-2021"),
        ("CT {x}:", "05-May-21"),
        ("since {x}", "5/2021"),
        ("of {x}", "2021-05"),
        ("seen {x}", "5/21/99"),
    ],
    "D phones": [
        ("call {x}", "(212) 555-0100"),
        ("Tel. {x}", "0511 532-1234"),
        ("reach {x}", "+49 511 5321234"),
        ("call {x}", "+49 (0)511 532-1234"),
        ("call {x}", "+44 20 7946 0958"),
        ("call {x}", "425.882.9090"),
    ],
    "E fax": [
        ("fax {x}", "212-555-0101"),
        ("Fax: {x}", "0511/532 9876"),
    ],
    "F e-mail": [
        ("mail {x}", "jo.doe@clinic.example.org"),
    ],
    "G social security": [
        ("SSN {x}", "123-45-6789"),
        ("RV-Nr. {x}", "65 170839 J 003"),
        ("number {x}", "536 90 4399"),
        ("NINO {x}", "AA 12 34 56 B"),
        ("personnummer {x}", "811228-9874"),
        ("codice {x}", "RSSMRA85T10A562S"),
        ("NIF {x}", "12345678Z"),
        ("SIN {x}", "046 454 286"),
    ],
    "H record numbers": [
        ("MRN: {x}", "12345"),
        ("record no {x}", "A-7781"),
        ("Fall-Nr. {x}", "77-1234"),
    ],
    "I health plan": [
        ("insurance {x}", "XK99812"),
        ("Versichertennummer {x}", "A123456789"),
        ("member # {x}", "PPO4471"),
        ("Medicare {x}", "1EG4-TE5-MK73"),
        ("Medicare {x}", "2123 45670 1"),
        ("NHS {x}", "401 023 2137"),
    ],
    "J accounts": [
        ("account {x}", "00917"),
        ("IBAN {x}", "DE89 3704 0044 0532 0130 00"),
        ("card {x}", "4012 8888 8888 1881"),
        ("card {x}", "3782 822463 10005"),
        ("IBAN {x}", "GB29 NWBK 6016 1331 9268 19"),
        ("tax {x}", "36 574 261 809"),
    ],
    "K licences": [
        ("license {x}", "MD44871"),
        ("certificate no {x}", "C-1209"),
        ("DEA {x}", "BB1388568"),
        ("passport {x}", "C01X0006H"),
    ],
    "L vehicles": [
        ("VIN {x}", "1HGCM82633A004352"),
        ("car {x}", "WVWZZZ1JZXW000001"),
        ("Kennzeichen {x}", "H-AB 1234"),
        ("plate {x}", "7ABC123"),
        ("seen in {x}", "B-AB 1234"),
    ],
    "M devices": [
        ("serial {x}", "PX-22871"),
        ("S/N {x}", "881723A"),
        ("station {x}", "00:1B:44:11:3A:B7"),
        ("station {x}", "001B.4411.3AB7"),
    ],
    "N web": [
        ("see {x}", "https://pacs.example.org/?id=7"),
        ("see {x}", "portal.example.org/p/7"),
        ("see {x}", "bing.io/x"),
    ],
    "O addresses on the net": [
        ("host {x}", "10.20.30.40"),
        ("host {x}", "2001:db8:85a3::8a2e:370:7334"),
        ("host {x}", "fe80::1"),
    ],
    "R any other number": [
        ("UID {x}", "1.2.826.0.1.3680043.8.498.1"),
        ("ref {x}", "9f1c2b7e-1d7a-4c1e-9b1a-0a1b2c3d4e5f"),
        ("study {x}", "998877665"),
    ],
}
_AROUND = [
    "Right lower lobe opacity, 3.5 x 2.1 cm.", "SpO2 95 %, CRP 120 mg/l, pH 7.35.", "Kein Erguss, kein Pneumothorax.",
    "T4 N2 M0, stage 1/2.", "COVID-19 PCR positive 10 days ago.", "No acute change.",
]  # fmt: skip


def planted_notes(seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """(note, identifier in it, its kind): each form with clinical sentences around it, in turn."""
    draw = random.Random(seed)
    forms = [(kind, *form) for kind, several in _FORMS.items() for form in several]
    for number in range(count):
        kind, form, identifier = forms[number % len(forms)]
        if identifier == "name":
            identifier = draw.choice(_NAMES).replace("van ", "Van ")
        yield f"{draw.choice(_AROUND)} {form.format(x=identifier)} {draw.choice(_AROUND)}", identifier, kind
