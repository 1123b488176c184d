"""What the report says in words. Fixed by the report's schema version, so that an edited sentence shows.

A text here changes only together with `privacy.report.build.SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNIT = "patient"
ADJACENCY = "add or remove one patient with all of the patient's records"
MECHANISM = (
    "Poisson-subsampled Gaussian mechanism (DP-SGD): each step draws every patient independently, the mean gradient "
    "of a patient's drawn records is clipped once as a whole, and noise is added at the site before anything leaves it"
)
MECHANISM_SHARED = (
    "Poisson-subsampled Gaussian mechanism (DP-SGD) on the sum over sites: each step draws every patient of every site "
    "independently, the mean gradient of a patient's drawn records is clipped once as a whole, and each site adds its "
    "share of the noise and a mask before anything leaves it; the masks cancel in the sum over all sites of the step, "
    "which is all that the server can read"
)
DELTA_WHY = (
    "delta bounds the chance that the epsilon bound fails. Each site checked, before its first step, that it is "
    "below 1 / its own number of patients, which stays at the site: above that, publishing one patient's record "
    "outright would satisfy it."
)
DELTA_BY_POLICY = (
    "delta bounds the chance that the epsilon bound fails. It was checked, before the first step, to be below 1 / the "
    "number of patients that each site's policy states: above that, publishing one patient's record outright would "
    "satisfy it."
)
LARGE_DELTA = (
    "a tenth or less is usual, since 1 / patients would permit publishing one patient's record outright"
)
CLAIM = (
    "The claim is the epsilon of the whole plan, which each site signed before the first record was read: stopping "
    "early does not lower it. 'Charged so far' is an odometer reading and not a guarantee."
)
STATUS = {
    "complete": "Every update that the server received is covered by a statement that its site signed.",
    "incomplete": "Some updates are not covered by a valid signed statement: nothing is guaranteed for their sites.",
    "unfinished": (
        "What the server received so far is covered by statements that its sites signed; that the run has ended is "
        "not shown for all of them."
    ),
    "empty": "No site has answered yet: nothing has been spent.",
    "none": "The run was trained without differential privacy: nothing bounds what its model tells of a patient.",
}
TUNING = {
    "none": "The researcher states that no earlier run on these patients influenced the settings of this one.",
    "public": (
        "The researcher states that settings were chosen on public or generated data alone, which costs nothing."
    ),
    "accounted": (
        "Settings were chosen by sweeps on patients of the sites that signed for them. The cost is that of each whole "
        "sweep: a random number of trials, of which the best alone was kept (Papernot and Steinke 2022, by RDP). It "
        "comes on top of what this run cost; each site's ledger counts both under its limit."
    ),
    "unknown": (
        "Not stated. If settings were chosen by looking at earlier runs on the same patients, those runs spent "
        "budget too: each site's ledger counts them, this report does not."
    ),
}

THREATS = (  # who, what they see, whether bounded by epsilon, how or why not
    (
        "the server",
        "every site's noisy updates, every global model, when each site answered",
        "yes",
        "noise is added at the site before anything leaves it; the server need not be trusted",
    ),
    (
        "the other sites",
        "the global model of each round",
        "yes",
        "computed from noisy updates alone; holds even if all other sites and the server collude",
    ),
    (
        "the public",
        "the final model and whatever is derived from it",
        "yes",
        "post-processing of noisy updates cannot raise epsilon",
    ),
    (
        "local staff and intruders",
        "the site's records, key and ledger",
        "no",
        "only what leaves a site is protected, not the machine inside it: use access control and encryption",
    ),
    (
        "observers of time and traffic",
        "when a site answers and how long it takes",
        "no",
        "durations may depend on the number of patients drawn; they are not part of the mechanism",
    ),
)
_THREATS_SHARED = (  # in place of the first two
    (
        "the server",
        "the noised sum over the sites of each step, every global model, when each site answered",
        "yes",
        "while no more sites than said above work together with it: each adds a share of the noise, and its part is "
        "masked",
    ),
    (
        "the other sites",
        "the global model of each step, the noise that they added themselves",
        "yes",
        "while no more of them than said above work together, with or without the server; the table says what is left "
        "if more do",
    ),
)


def threats(shared: bool) -> tuple[tuple[str, str, str, str], ...]:
    """Who may see what, and whether epsilon bounds it; `shared`: the sites share the noise of one sum."""
    return (*_THREATS_SHARED, *THREATS[2:]) if shared else THREATS


ASSUMPTIONS = (
    "The sites run the software named here, unmodified, on machines that are not compromised.",
    "All records of one person carry the same patient identifier within a site.",
    "The operating system's random number generator, which keys the noise and the sampling, cannot be predicted.",
    "Sites do not link their patients: the lines for two and for all sites bound a patient who is in several.",
    "Each plan was fixed before its run; each site's ledger admits further plans on the same patients by its limit.",
    "A signature shows which key signed. Whose key it is must be checked with the site itself.",
)
NOT_COVERED = (
    "settings chosen by looking at earlier runs on the same patients, and those runs themselves",
    "a site's size class (a power of two), which its sampling rate shows, that it took part, and when it answered",
    "what a model says about people in general: a true finding about a group holds for members who took no part too",
    "anybody with access to a site's machine",
    "errors in the software or hardware that the audit, if one is shown, does not find",
)
_PARTICIPATION = "that a site took part, and when it answered"


def not_covered(by_policy: bool) -> tuple[str, ...]:
    """What epsilon does not cover; `by_policy`: every site's sampling rate follows from a number in its policy."""
    if not by_policy:
        return NOT_COVERED
    return tuple(_PARTICIPATION if "size class" in item else item for item in NOT_COVERED)


def sharing(sites: int, honest: int, least_cohort: int) -> str:
    """What epsilon rests on where the sites share the noise: how many of them may work together."""
    return (
        f"The noise is shared. Of {sites} sites {least_cohort} or more are in each sum, and {honest} of them add up to "
        f"the noise that epsilon counts on: it holds while at most {least_cohort - honest} of a sum's sites work "
        "together with the server, or say that they added noise and did not."
    )


def condition(derived: Sequence[str], by_policy: bool) -> str:
    """What epsilon rests on: the number from which the sites' sampling rates follow.

    Args:
        derived: the sites whose rate follows from how many patients they have.
        by_policy: whether each site's follows from a number in its policy.
    """
    if not derived and not by_policy:
        return (
            "The run names the sampling rate of a step, the same at every site: nothing in it or in the noise was "
            "derived from how many patients a site has."
        )
    if not derived:
        return (
            "Each site's sampling rate and noise follow from a number of patients that its policy states: nothing in "
            "them was derived from how many patients it has."
        )
    return (
        f"At {', '.join(derived)} the sampling rate was derived from the site's number of patients, rounded down to a "
        "power of two: epsilon holds given that class. A site whose policy states a number (run.patients) has no such "
        "condition."
    )


_CHECKLIST = (  # NIST SP 800-226 (2025): component of the pyramid, answer, where or why
    (
        "Epsilon and delta",
        "stated",
        "for a patient in one, two and all sites, with the attacker's success in plain numbers",
    ),
    ("Unit of privacy", "stated", "the patient with all records of the patient at a site; add/remove"),
    (
        "Composition over releases",
        "stated",
        "all rounds of the run; other runs by each site's ledger, under its limit",
    ),
    (
        "Mechanism and its parameters",
        "stated",
        "Poisson-subsampled Gaussian: noise multiplier, sampling rate, clip, steps",
    ),
    (
        "Correctness of the accounting",
        "checked",
        "pessimistic privacy loss distributions, cross-checked by RDP and PRV",
    ),
    (
        "Floating-point arithmetic",
        "addressed in part",
        "noise is released on a lattice, rounding is part of the sensitivity and the same in any company; the latter "
        "is measured on CPUs, not on GPUs",
    ),
    (
        "Random numbers",
        "addressed",
        "AES-256 in counter mode under a fresh operating-system key; never seeded",
    ),
    ("Timing and other side channels", "not addressed", "durations are visible to the server"),
    ("Trust model", "stated", "local: each site adds its own noise; server and other sites are untrusted"),
    (
        "Utility and bias",
        "not assessed here",
        "noise and clipping can hurt small groups most: evaluate subgroups",
    ),
    ("Access control and security", "the site's duty", "keys, records and ledger stay on the site's machine"),
    ("Data collection exposure", "the site's duty", "what is not collected needs no protection"),
)

_AFTER_ACCOUNTING = 5
FLOATING_POINT_BEFORE = {  # what the schema before said of it
    "item": "Floating-point arithmetic",
    "answer": "addressed",
    "where": "noise is released on a lattice, rounding is part of the sensitivity",
}


_TRUST_SHARED = (
    "Trust model",
    "stated",
    "distributed: each site adds a share of the noise; the server is untrusted, and of the other sites as many as said",
)


def checklist(audits: Sequence[Mapping[str, Any]], shared: bool = False) -> list[tuple[str, str, str]]:
    """The points of NIST SP 800-226, with what the audits say of the implementation.

    Args:
        audits: of the report.
        shared: whether the sites share the noise of one sum.
    """
    if any(not audit["result"]["passed"] for audit in audits):
        answer, where = "VIOLATED", "the audit found that the code does not do what the accountant was told"
    elif any(audit["sites"] for audit in audits):
        sites = sorted({site for audit in audits for site in audit["sites"]})
        answer, where = (
            "tested",
            f"the audit found no violation; it tested the mechanism of {', '.join(sites)}",
        )
    elif audits:
        answer, where = "not assessed", "the audit shown here tested a mechanism that no site of this run has"
    else:
        answer, where = "not assessed here", "by the empirical audit (mmmed privacy audit), if it is added"
    rows = [_TRUST_SHARED if shared and row[0] == _TRUST_SHARED[0] else row for row in _CHECKLIST]
    rows.insert(_AFTER_ACCOUNTING, ("Correctness of the implementation", answer, where))
    return rows


_COVERED = {"unknown": "unknown", "accounted": "by an epsilon of its own"}


def data_access(metrics_shown: list[str], evaluated: list[str], tuning: str) -> list[dict[str, str]]:
    """Every way in which the run read patients' records, and whether epsilon covers it."""
    if metrics_shown:
        metrics = (
            "no",
            f"may leave {', '.join(metrics_shown)} without differential privacy: as they are in a simulation on "
            "generated or public data, or rounded where a hospital's policy says so",
        )
    elif evaluated:
        metrics = (
            "yes",
            f"{', '.join(evaluated)} released counts by class and score, once, with Gaussian noise, a patient "
            "counting 1; charged to the held-out patients, who are others than those trained on",
        )
    else:
        metrics = ("nothing released", "held-out metrics do not leave a site")
    rows = (
        ("training", "yes", "every drawn record enters a clipped and noised sum, charged before it ran"),
        ("metrics on held-out patients", *metrics),
        (
            "preprocessing statistics",
            "nothing computed",
            "images are scaled by fixed rules; the vocabulary is public",
        ),
        (
            "choice of the model",
            "nothing computed",
            "the last round's model is the result; no site's data chose it",
        ),
        ("choice of settings", _COVERED.get(tuning, "nothing computed"), TUNING[tuning]),
    )
    return [{"access": access, "covered": covered, "how": how} for access, covered, how in rows]
