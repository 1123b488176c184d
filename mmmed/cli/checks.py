"""``mmmed server check``: who would refuse a run, by policies that lie here or by asking the sites."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmmed.text import shown

if TYPE_CHECKING:
    from mmmed.config import RunConfig
    from server.check import SiteAnswer
    from server.deployment.folder import Folder

_LEFT = "what depends on its patients and its ledger a site alone can say, during the run"


def read_policies(files: Sequence[Path], run: RunConfig) -> bool:
    """Print what each policy file says of a run; whether all allow it."""
    from client.run_request import INSTALLED, purposes, run_request
    from client.simulated import read_trial_policy
    from privacy.errors import PolicyRefusal
    from server.deployment.bundle import app_digest

    willing = True
    for path in files:
        policy = read_trial_policy(path)
        bundle = INSTALLED if INSTALLED in policy.apps else app_digest()
        verdict = "allows the run"
        for purpose in purposes(run):
            try:
                policy.check(run_request(run, purpose, bundle), time.time())
            except PolicyRefusal as refusal:
                verdict, willing = f"REFUSES {purpose}: {refusal}", False
                break
        print(f"{shown(policy.site)}: {verdict}")
    print(_LEFT)
    return willing


def ask_sites(folder: Folder, run: RunConfig, seconds: float) -> bool:
    """Print what each connected site would do with a run; whether none refuses and enough would take part."""
    _ = folder.settings  # is there a federation at all? Before anything heavy is loaded
    from mmmed.federation.protocol import Refusal
    from server.deployment.checks import ask

    answers, away = ask(folder, run, seconds)
    for one in answers:
        print(f"{shown(one.site)}: {_in_words(one, seconds)}")
    for name in away:
        print(f"{shown(name)}: not connected")
    good = sum(one.refused in ("", Refusal.HELD) for one in answers)
    needed = run.federation.least_updates
    print(f"{good} of {len(answers) + len(away)} would take part; a round needs {needed}; {_LEFT}")
    return good >= needed and not any(one.asked and one.refused not in ("", Refusal.HELD) for one in answers)


def _in_words(one: SiteAnswer, seconds: float) -> str:
    """What a site answered, or why nothing is known of it."""
    from mmmed.federation.protocol import Refusal, meaning

    if not one.refused:
        return "would take part"
    if one.refused == Refusal.HELD:
        return "its policy allows the run; somebody there has to approve it"
    told = f"{one.refused} ({meaning(one.refused) or 'a code of another version'})"
    if one.refused in (Refusal.NO_REPLY, Refusal.EXPIRED):
        return f"did not answer within {seconds:g} s: it is away, or busy with a round"
    if not one.asked:
        return f"gave no answer: {told}"
    rule = f" by its rule {one.rule}" if one.rule else ""
    return f"WOULD REFUSE {one.purpose}{rule}: {told}"
