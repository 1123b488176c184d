"""Invented notes with identifiers as clinicians write them, each marked; written apart from the rules."""

from __future__ import annotations

import random
from collections.abc import Iterator

_FIRST = [
    "Aisha",
    "Bogdan",
    "Chidi",
    "Dagmar",
    "Eileen",
    "Farouk",
    "Gunnar",
    "Heidrun",
    "Ingrid",
    "Jiří",
    "Kwame",
    "Lakshmi",
    "Marisol",
    "Nikolaus",
    "Oksana",
    "Priya",
]
_LAST = [
    "Abernathy",
    "Brzezinski",
    "Castellano",
    "Dunkelberg",
    "Eisenhauer",
    "Fitzwilliam",
    "Ganzenmüller",
    "Hashimoto",
    "Ivanova",
    "Jorgensen",
    "Kowalczyk",
    "Lichtenberg",
    "McAllister",
    "Nwosu",
    "O'Shea",
    "Pfannkuch",
    "Quintero",
    "Rautenberg",
    "Szymanski",
    "Thibodeaux",
    "Übelacker",
    "Villalobos",
    "Weißenborn",
    "Zuckmayer",
]
_PARTICLE = ["von", "van der", "de la", "zu", "von der", "di"]
_MONTHS_EN = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_MONTHS_DE = [
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
]

_NAMES = [
    "DICTATED BY: {N}, M.D.", "Dictated by: {n}", "Electronically signed by {n} on file", "Signed by: {N}",
    "SIGNED BY {N}",
    "Reported by {n}.", "Read by: Dr. {l}", "Dr. {n} was informed.", "DR. {N} WAS NOTIFIED.",
    "Findings discussed with Dr. {l} by phone.",
    "Attending: {n}, MD", "Resident: {c}", "Referring physician: {n}", "ORDERING PROVIDER: {C}",
    "PROF. {L} reviewed the images.",
    "Interpreted by: {n}, MD, PhD", "Transcribed by {l}", "Technologist: {n}", "Mrs. {l} tolerated the procedure.",
    "Mr. {n} has a cough.",
    "Befundet von: {n}", "Befundet von Dr. med. {p}", "gez. Dr. {l}", "gez. {n}", "Prof. Dr. med. {n} hat mitbefundet.",
    "PD Dr. {p} informiert.", "OA Dr. {l} hat den Befund gesehen.", "Herr {l} klagt über Husten.",
    "Frau {n} ist beschwerdefrei.",
    "Vidiert durch: {n}", "Freigegeben von {n}", "Sehr geehrter Herr Kollege {l},", "Mit freundlichen Grüßen\nDr. {n}",
    "Patientin: {c}", "Name: {C}", "Überweiser: Dr. {l}", "Hausarzt: {n}", "Rücksprache mit Frau Dr. {l}.",
    "Patient: {n}",
    "The results were called to Nurse {l}.", "cc: {n}, MD", "Reviewed with Drs. {l} and colleagues.",
    "Operateur: Prof. {p}",
    "Diktiert von {n} / Schreibkraft", "Contact: {n} (daughter)", "Elektronisch signiert von: Dr. {n}",
]  # fmt: skip
_DATES = [
    "Comparison: {d}/{m}/{Y}.", "CXR of {Y}-{m:02}-{d:02}.", "Exam date: {m:02}/{d:02}/{y:02}",
    "Seen on {B} {d}, {Y}.", "on {d} {B} {Y}",
    "Voraufnahme vom {d:02}.{m:02}.{Y}.", "am {d}. {G} {Y}", "CT vom {d}.{m}.{y:02}", "{d:02}-{b}-{Y}",
    "admitted {b} {d}", "seit {m:02}/{Y}",
    "OP am {d}. {G}", "DOB: {m:02}/{d:02}/{Y}", "geb. {d:02}.{m:02}.{Y}", "{d:02}{b}{Y}", "in {B} {Y}",
    "{Y}{m:02}{d:02}", "am {d}.{m}. entlassen",
]  # fmt: skip
_PHONES = [
    "Tel.: 0{a} {e}", "Tel. 0{a}/{e}", "call {f}-{g}-{h}", "Phone: ({f}) {g}-{h}", "pager {e}", "Fax +49 {a} {e}",
    "DECT {h}", "ext. {h}",
    "Rückruf unter 0{a} {e}", "cell {f}.{g}.{h}", "at {g}-{h}", "+1 {f} {g} {h}", "Telefon 0{a}-{e}-12",
    "Durchwahl {h}",
]  # fmt: skip
_IDS = [
    "MRN: {i}", "MRN {i}", "Patienten-ID: {i}", "Accession #: {i}", "Fallnummer {i}", "Patient ID {i}", "Acc# CR{i}",
    "Fall-Nr. {i}",
    "Auftragsnr.: A{i}", "case number {i}", "Pat.-Nr. {i}", "hospital number: {i}", "Versichertennummer: K{i}",
    "NHS number {i}", "encounter {i}",
]  # fmt: skip
_STREETS = [
    "Lives at {k} {w} Street.", "{k} {w} Ave, Apt 4", "Address: {k} {w} Road", "wohnhaft {l}straße {k}",
    "{l}str. {k}, 30161 Celle", "Am {w}berg {k}, Celle",
    "Adresse: {l}weg {k}", "{k} Old {w} Lane.", "{k}B {w} Drive", "An der {w}mühle {k}, 31134 Hildesheim",
    "{w}allee {k}", "P.O. Box {k}4",
    "{l}-Platz {k}", "wohnt {w}gasse {k}",
]  # fmt: skip
_KINDS = {"name": _NAMES, "date": _DATES, "phone": _PHONES, "id": _IDS, "street": _STREETS}
_AROUND = [
    "Chest PA and lateral. {x} No focal consolidation.", "FINDINGS: Lungs clear.\n{x}\nIMPRESSION: Normal chest.",
    "{x}\nThorax: kein Erguss, kein Pneumothorax.", "Befund: Herz normal groß. {x}\nBeurteilung: Unauffällig.",
    "THE LUNGS ARE CLEAR. {x} NO EFFUSION.",
]  # fmt: skip
ORDINARY = (
    "MR Angiography normal. Grade 2 of 3, stage T2 N1. Herz normal groß, Erguss links. Mother: diabetes. Discussed "
    "with Radiology. Small "
    "effusion at the left base, 3.5 x 2.1 cm, 120-150 HU. Patient denies pain. Kontrastmittel i.V. gegeben. Im "
    "Segment 5 und am Tag 3 nach OP. "
    "May represent atelectasis. No pneumothorax. Long segment stenosis. Signed out against medical advice. Hospital "
    "course uneventful. "
    "DR Chest two views. Called for results. Im Vergleich zur Voraufnahme keine Änderung. Die Patientin ist wach. "
    "Read in full. Klinik: Husten."
)


def introduced(seed: int, count: int, wanted: str) -> Iterator[tuple[str, str, str]]:
    """(note, kind, the words that must go): ``count`` notes of the kind that is ``wanted``."""
    draw = random.Random(seed)
    for kind, forms in [(wanted, _KINDS[wanted])]:
        for number in range(count):
            form, around = forms[number % len(forms)], draw.choice(_AROUND)
            first, last, month = draw.choice(_FIRST), draw.choice(_LAST), draw.randrange(12)
            parts = {"n": f"{first} {last}", "N": f"{first} {last}".upper().replace("ß", "SS"), "l": last,
            "L": last.upper(),
                     "c": f"{last}, {first}", "C": f"{last}, {first}".upper(),
                     "p": f"{first} {draw.choice(_PARTICLE)} {last}",
                     "d": draw.randint(1, 28), "m": month + 1, "y": draw.randint(10, 24), "B": _MONTHS_EN[month],
                     "b": _MONTHS_EN[month][:3].upper(), "G": _MONTHS_DE[month], "a": draw.randint(201, 999),
                     "e": draw.randint(10000, 9999999),
                     "f": draw.randint(201, 989), "g": draw.randint(200, 999), "h": draw.randint(1000, 9999),
                     "i": draw.randint(10000, 99999999),
                     "k": draw.randint(1, 199), "w": draw.choice(["Juniper", "Wacholder", "Thistle",
                     "Erlen"])}  # fmt: skip
            parts["Y"] = 2000 + int(str(parts["y"]))
            marked = form
            for name in parts:  # the identifier is what the placeholders become
                marked = marked.replace("{" + name, "\x01{" + name)
            filled = marked.format(**parts)
            must = " ".join(piece.split("\x02")[0] for piece in filled.split("\x01")[1:])
            yield (
                around.format(x=filled.replace("\x01", "")),
                kind,
                must if kind == "name" else must.split("\n")[0],
            )


def survivors(kind: str, must: str, scrubbed: str) -> bool:
    """Whether something of an identifier is still in a note."""
    if kind == "name":
        names = [w for w in must.replace(",", " ").replace(".", " ").split() if w.casefold() in _PEOPLE]
        return any(name in scrubbed for name in names)
    digits = [part for part in "".join(c if c.isdigit() else " " for c in must).split() if len(part) > 1]
    return any(digit in scrubbed for digit in digits)


_PEOPLE = {word.casefold().replace("ß", form) for word in (*_FIRST, *_LAST) for form in ("ß", "ss")}
