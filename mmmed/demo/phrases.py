"""The words of the generated notes: what can be said, present or absent, in each style of writing.

``{he}``, ``{his}``, ``{man}``, ``{age}`` and ``{n}`` are filled in by the writer. No phrase names the
label, and none settles it: each is said of patients with and without the finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["narrative", "templated", "terse"]
Group = Literal["symptoms", "examination", "bloods", "history"]


@dataclass(frozen=True)
class Topic:
    """Something a clinician asks, hears or measures. Each side: narrative, templated, terse phrases."""

    group: Group
    present: dict[Style, tuple[str, ...]]
    absent: dict[Style, tuple[str, ...]]


def _topic(group: Group, *sides: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]) -> Topic:
    styles: tuple[Style, ...] = ("narrative", "templated", "terse")
    present, absent = (dict(zip(styles, side, strict=True)) for side in sides)
    return Topic(group, present, absent)


# Said of the acute illness: the side depends on how clearly the patient is ill.
TELLING: tuple[Topic, ...] = (
    _topic(
        "symptoms",
        (
            ("{he} has had a fever for {n} days.", "Febrile and shivering since yesterday."),
            ("fever", "fever and rigors"),
            ("febrile", "fever {n}/7"),
        ),
        (
            ("There has been no fever.", "{he} is afebrile and comfortable."),
            ("no fever", "afebrile"),
            ("afebrile", "no fever"),
        ),
    ),
    _topic(
        "symptoms",
        (
            ("{he} has a productive cough.", "Cough with green sputum for {n} days."),
            ("productive cough", "cough with sputum"),
            ("prod cough", "cough + sputum {n}/7"),
        ),
        (
            ("{he} denies cough or sputum.", "No cough."),
            ("no cough", "denies cough"),
            ("nil cough", "no cough"),
        ),
    ),
    _topic(
        "symptoms",
        (
            ("Increasingly breathless over {n} days.", "{he} is short of breath at rest."),
            ("breathless at rest", "increasing breathlessness"),
            ("SOB at rest", "SOB, worse"),
        ),
        (
            ("{he} is not short of breath.", "Exercise tolerance is unchanged."),
            ("not breathless", "exercise tolerance unchanged"),
            ("no SOB", "ET unchanged"),
        ),
    ),
    _topic(
        "symptoms",
        (
            ("Sharp pain on breathing in.", "{he} reports pleuritic pain."),
            ("pleuritic pain", "sharp pain on inspiration"),
            ("pleuritic CP", "pain on insp"),
        ),
        (
            ("There is no chest pain.", "{he} denies pain."),
            ("no chest pain", "denies pain"),
            ("no CP", "nil pain"),
        ),
    ),
    _topic(
        "examination",
        (
            ("Crackles are heard at one base.", "Coarse crackles on auscultation."),
            ("crackles", "coarse crackles at the base"),
            ("creps", "crackles base"),
        ),
        (
            ("The lungs are clear to auscultation.", "Vesicular breath sounds throughout, no crackles."),
            ("clear to auscultation", "no crackles, vesicular breath sounds"),
            ("clear, no creps", "BS vesicular"),
        ),
    ),
    _topic(
        "examination",
        (
            ("One base is dull to percussion.", "Breath sounds are reduced on one side."),
            ("dull base", "reduced breath sounds"),
            ("dull base", "reduced AE"),
        ),
        (
            ("Percussion is resonant on both sides.", "Air entry is equal."),
            ("resonant", "equal air entry"),
            ("resonant", "AE equal"),
        ),
    ),
    _topic(
        "examination",
        (
            ("{he} needs oxygen to keep {his} saturation up.", "Saturation is low on room air."),
            ("low saturation, on oxygen", "oxygen required"),
            ("low sats", "on O2"),
        ),
        (
            ("Saturation is good on room air.", "{he} needs no oxygen."),
            ("good saturation on room air", "no oxygen required"),
            ("sats good on RA", "no O2"),
        ),
    ),
    _topic(
        "bloods",
        (
            ("Inflammatory markers are raised.", "The white count is high and CRP is rising."),
            ("CRP raised", "white count high, CRP rising"),
            ("CRP up", "WCC high"),
        ),
        (
            ("Inflammatory markers are not raised.", "CRP and white count are unremarkable."),
            ("CRP not raised", "white count and CRP unremarkable"),
            ("CRP low", "bloods NAD"),
        ),
    ),
    _topic(
        "history",
        (
            ("{he} has lost weight and appetite.", "Tired and sweating at night for weeks."),
            ("weight loss", "night sweats"),
            ("wt loss", "night sweats"),
        ),
        (
            ("Weight is stable.", "{he} feels well in {his} own words."),
            ("feels well", "weight stable"),
            ("well", "wt stable"),
        ),
    ),
)

# Why the film was asked for: a worry, or a routine.
REASONS = _topic(
    "history",
    (
        ("Unwell for {n} days, please assess the lungs.", "Sent in by the family doctor, query infection."),
        ("unwell, ?infection", "deteriorating on the ward"),
        ("unwell {n}/7 ?infection", "deteriorating"),
    ),
    (
        ("Routine film before an operation.", "Routine check before a new job."),
        ("routine, preoperative", "routine check"),
        ("routine pre-op", "routine check"),
    ),
)

# Said whatever the illness: history, earlier films and hedges, which name findings without meaning any.
DISTRACTORS: dict[Style, tuple[str, ...]] = {
    "narrative": (
        "The previous film showed no effusion.",
        "An old film mentioned a possible small nodule, not seen again.",
        "Treated for consolidation {n} years ago.",
        "There may be some atelectasis, as before.",
        "Known high blood pressure and diabetes.",
        "{he} stopped smoking {n} years ago.",
        "{he} never smoked.",
        "History of heart failure, last echo stable.",
        "{he} had a hip replaced and walks with a stick.",
        "No known allergies.",
        "Pneumothorax is unlikely but cannot be excluded.",
        "{he} takes aspirin and a statin.",
    ),
    "templated": (
        "no effusion on previous film",
        "possible nodule on an old film, not confirmed",
        "consolidation {n} years ago, resolved",
        "hypertension",
        "diabetes",
        "ex-smoker",
        "never smoked",
        "heart failure, stable",
        "hip replacement",
        "no known allergies",
        "pneumothorax unlikely",
        "aspirin",
    ),
    "terse": (
        "prev CXR no effusion",
        "old film ?nodule, not confirmed",
        "prev consolidation {n}y ago",
        "HTN",
        "DM2",
        "ex-smoker",
        "non-smoker",
        "CCF stable",
        "THR",
        "NKDA",
        "?PTX unlikely",
        "on aspirin",
    ),
}

OPENINGS: dict[Style, tuple[str, ...]] = {
    "narrative": ("This {age}-year-old {man} was seen today.", "{age}-year-old {man}."),
    "templated": ("Age {age}.",),
    "terse": ("{age}{sex}",),
}
FIELDS: dict[Group, str] = {
    "symptoms": "Symptoms",
    "examination": "Examination",
    "bloods": "Bloods",
    "history": "History",
}
EMPTY_FIELD = "not recorded"
REASON_FIELD = "Reason"
