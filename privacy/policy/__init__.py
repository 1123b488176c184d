"""The site's policy: what the privacy officer allows, signed, and what no request can widen.

Beside `site-policy.toml` lies `site-policy.toml.sig`, the officer's Ed25519 signature over its exact bytes. The
ledger records the policy that holds. A new one may tighten it; one that widens any rule needs a second
officer's signature as well.
"""

from privacy.policy.rules import EVALUATION, TRAINING, TUNING, RunRequest, SitePolicy
from privacy.policy.signing import (
    SignedPolicy,
    adopt_policy,
    check_successor,
    load_policy,
    open_ledger,
    sign_policy,
)
from privacy.policy.simulation import SHOWN, SimulationPolicy

Policy = SitePolicy | SimulationPolicy

__all__ = [
    "EVALUATION",
    "SHOWN",
    "TRAINING",
    "TUNING",
    "Policy",
    "RunRequest",
    "SignedPolicy",
    "SimulationPolicy",
    "SitePolicy",
    "adopt_policy",
    "check_successor",
    "load_policy",
    "open_ledger",
    "sign_policy",
]
