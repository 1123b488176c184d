"""Four made-up hospitals, their patients, and how much each film and note says about the finding.

Labels follow a liability-threshold model: a study's liability is a standard normal, partly its patient's
own, and the finding is there when it passes the threshold that gives the hospital its prevalence. How
plainly film and note speak is then drawn for each of them apart, from the label alone: that makes the two
complementary, and nothing else (scanner, pose, style, age, further studies) depends on the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import NormalDist

import numpy as np

from mmmed.demo.dicom import Encoding, StudyInfo
from mmmed.demo.films import Anatomy, Look, draw_anatomy, draw_film, expose
from mmmed.demo.note_writing import Note, Style, write_note
from mmmed.demo.outcomes import Outcome, draw_outcome

PLAIN = 0.62  # share of films, and of notes, that point the right way
UNCLEAR = 0.26  # share that point neither way; the rest mislead
PATIENT_SHARE = 0.3  # of the liability's variance that a patient's studies have in common
STUDIES = (0.55, 0.27, 0.12, 0.06)  # shares of patients with 1 to 4 studies


@dataclass(frozen=True)
class Scanner:
    name: str
    look: Look
    encoding: Encoding


@dataclass(frozen=True)
class Hospital:
    name: str
    prefix: str  # of its patient ids
    patients: int  # at scale 1
    prevalence: float
    mean_age: float
    scanners: tuple[Scanner, ...]  # the first takes most films
    style: Style | None  # None: sends no notes


@dataclass(frozen=True)
class Study:
    """One row of the table, and what only its maker knows: where the finding is to be seen and read.

    Attributes:
        film: in display values, float32 [rows, columns], 0..1, 1 is white.
        strength: of the opacity on it, 0 (unseen) to 1 (plain).
        place: float32 [rows, columns], `mmmed.demo.films.Scene.place`.
        text: the note.
        telling: of each word of it (between spaces), whether it tells of the acute illness.
    """

    info: StudyInfo
    film: np.ndarray
    encoding: Encoding
    text: str
    finding: int
    outcome: Outcome
    strength: float
    place: np.ndarray
    telling: tuple[bool, ...]


HOSPITALS: tuple[Hospital, ...] = (
    Hospital(
        name="northgate",
        prefix="NG",
        patients=700,
        prevalence=0.18,
        mean_age=58,
        scanners=(
            Scanner("NG room 1", Look((128, 128), noise=0.015, blur=0.4), Encoding("DX", "MONOCHROME2", 12)),
            Scanner(
                "NG mobile",
                Look((112, 136), gain=0.85, noise=0.03, blur=0.8),
                Encoding("CR", "MONOCHROME1", 12, view="AP", width_mm=430),
            ),
        ),
        style="narrative",
    ),
    Hospital(
        name="harbour",
        prefix="HB",
        patients=450,
        prevalence=0.50,
        mean_age=67,
        scanners=(
            Scanner(
                "HB cassette",
                Look((144, 120), gain=1.1, gamma=1.25, noise=0.035, blur=0.9, border=(0.01, 0.06)),
                Encoding("CR", "MONOCHROME1", 16, width_mm=355),
            ),
        ),
        style="templated",
    ),
    Hospital(
        name="meadow",
        prefix="MD",
        patients=300,
        prevalence=0.62,
        mean_age=71,
        scanners=(
            Scanner(
                "MD digitiser",
                Look(
                    (96, 96), gain=0.8, gamma=0.85, noise=0.025, blur=0.6, border=(0.0, 0.05), border_grey=1.0
                ),
                Encoding("CR", "MONOCHROME2", 8, width_mm=400),
            ),
            Scanner("MD room 2", Look((120, 120), noise=0.02), Encoding("DX", "MONOCHROME2", 12)),
        ),
        style=None,
    ),
    Hospital(
        name="old-mill",
        prefix="OM",
        patients=180,
        prevalence=0.33,
        mean_age=63,
        scanners=(
            Scanner(
                "OM room 1",
                Look((160, 144), gain=1.25, noise=0.02, blur=0.5, border=(0.02, 0.08)),
                Encoding("DX", "MONOCHROME1", 12, width_mm=390),
            ),
        ),
        style="terse",
    ),
)


def studies(hospital: Hospital, site: int, *, seed: int, patients: int) -> Iterator[Study]:
    """All studies of a hospital's first patients; a patient is the same whatever the number of patients.

    Args:
        hospital: what is generated.
        site: number of the hospital, part of every patient's seed.
        seed: of the whole data set.
        patients: how many patients.
    """
    for number in range(patients):
        rng, outcomes = (np.random.default_rng([seed, site, number, *more]) for more in ((), (1,)))
        yield from _patient(hospital, f"{hospital.prefix}{number + 1:04d}", rng, outcomes)


def _patient(
    hospital: Hospital, patient_id: str, rng: np.random.Generator, outcomes: np.random.Generator
) -> Iterator[Study]:
    sex = "FM"[int(rng.integers(2))]
    age = int(np.clip(rng.normal(hospital.mean_age, 14), 18, 95))
    anatomy = draw_anatomy(rng, sex, age)
    own = rng.standard_normal()
    day = date(2020, 1, 1) + timedelta(days=int(rng.integers(700)))
    born = date(day.year - age, 1, 1)
    threshold = NormalDist().inv_cdf(1 - hospital.prevalence)
    for number in range(1 + int(rng.choice(len(STUDIES), p=STUDIES))):
        liability = PATIENT_SHARE**0.5 * own + (1 - PATIENT_SHARE) ** 0.5 * rng.standard_normal()
        scanner = hospital.scanners[0 if rng.random() < 0.75 else -1]
        info = StudyInfo(
            hospital.name, scanner.name, patient_id, f"{patient_id}-{number + 1}", sex, born, day
        )
        yield _study(hospital, scanner, anatomy, info, int(liability > threshold), rng, outcomes)
        day += timedelta(days=int(rng.integers(2, 60)))


def _study(
    hospital: Hospital,
    scanner: Scanner,
    anatomy: Anatomy,
    info: StudyInfo,
    finding: int,
    rng: np.random.Generator,
    outcomes: np.random.Generator,
) -> Study:
    strength = (1 + evidence(finding, rng)) / 2
    scene = draw_film(anatomy, rng, strength=strength, shape=scanner.look.shape)
    film = expose(scene.film, scanner.look, rng)
    note = Note("", ())
    if hospital.style:
        note = write_note(hospital.style, evidence(finding, rng), info.age, info.sex, rng)
    outcome = draw_outcome(scene.opacity, strength, finding, info.age, outcomes)
    return Study(
        info, film, scanner.encoding, note.text, finding, outcome, strength, scene.place, note.telling
    )


def evidence(finding: int, rng: np.random.Generator) -> float:
    """What one film or note says, -1 (nothing wrong) to 1 (clearly ill), given the true finding.

    PLAIN of them point the right way, UNCLEAR are in between, and the rest mislead: a finding that does
    not show, or an old scar or another illness that looks like one.
    """
    draw = rng.random()
    centre = 0.0 if PLAIN <= draw < PLAIN + UNCLEAR else (0.85 if draw < PLAIN else -0.85) * (2 * finding - 1)
    return centre + rng.uniform(-0.15, 0.15)
