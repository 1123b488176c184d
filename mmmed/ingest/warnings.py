"""What a human should look into: one id for two people, one image under two ids."""

from __future__ import annotations

import numpy as np

from mmmed.deidentify.keys import SiteKey
from mmmed.ingest.items import Written
from mmmed.ingest.people import People
from mmmed.ingest.plan import Item
from mmmed.ingest.scan import Scan

_SIMILAR_BITS = 10  # of 256; chest films of different patients differ in 18 and more


def two_people(found: Scan, key: SiteKey) -> list[str]:
    """Warnings of patient ids under which sources name several people, by birth date or sex."""
    return [
        f"patient {key.patient(found.people.unit(patient))}: one id, but {len(known.births)} birth dates and "
        f"{len(known.sexes)} sexes in the sources; check whether these are different people"
        for patient, known in found.patients.items()
        if len(known.births) > 1 or len(known.sexes) > 1
    ]


def several_ids(people: People, key: SiteKey) -> list[str]:
    """What was decided of patients who go by several ids, and pairs who may be one person."""
    told = []
    if people.respelled:
        told.append(
            f"{people.respelled} patient ids are written in several ways (case, spaces, zeros): taken as one each"
        )
    if people.joined:
        told.append(
            f"{people.joined} patients go by several ids (OtherPatientIDs, crosswalk): taken as one each"
        )
    if people.suspects:
        told.append(
            f"{len(people.suspects)} pairs of ids have one name and birth date: each is one patient for the ledger. "
            f"State in "
            "the crosswalk (id, person) which are one person and which are not"
        )
    told += sorted({f"patient {key.patient(people.unit(one))}: perhaps two" for one, _ in people.suspects})
    return told


def look_alikes(items: list[Item], done: dict[str, Written], people: People, key: SiteKey) -> list[str]:
    """Warnings of pairs of patients who share a nearly identical image."""
    prints = [
        (key.patient(people.unit(item.patient)), done[item.name].fingerprint)
        for item in items
        if item.name in done
    ]
    prints = [(patient, text) for patient, text in prints if text and text.strip("0")]
    if not prints:
        return []
    bits = np.unpackbits(np.array([list(bytes.fromhex(text)) for _, text in prints], np.uint8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    pairs: set[tuple[str, str]] = set()
    for start in range(0, len(signs), 1024):
        distance = (256 - signs[start : start + 1024] @ signs.T) / 2
        for i, j in zip(*np.nonzero(distance <= _SIMILAR_BITS), strict=True):
            a, b = prints[start + i][0], prints[j][0]
            if a < b:
                pairs.add((a, b))
    return [
        f"patients {a} and {b} share a nearly identical image: one person with two ids?"
        for a, b in sorted(pairs)
    ]
