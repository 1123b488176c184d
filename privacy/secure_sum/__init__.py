"""The sum over sites of one vector each, noise included, of which the coordinator learns the sum alone.

Every site adds its share of the noise as whole numbers on a public lattice, then masks that cancel in the sum over
the whole cohort: pairwise one-time pads modulo 2^bits (Bonawitz et al. 2017, "Practical secure aggregation for
privacy-preserving machine learning", without its recovery of drop-outs: a step that loses a site is void and asked
again with a fresh draw, fresh noise and a charge of its own).

    server -> site   `Terms`, public, which the site judges by `PeerRules`
    site -> server   `Introduction`: a key made for this run, signed under the site's own key with the terms
    server -> site   the bundle of all introductions, the same for the whole run
    server -> site   `Request`: step, attempt, cohort, digest of the model
    site -> server   the masked words, and nothing else that depends on data
    server           `Coordinator`: the sum modulo 2^bits, on the lattice

Promise: whatever the server and up to (cohort - h) sites do together, of one step they learn no more than the sum
over all the other sites of the cohort, with the noise of at least h of them; and each such sum is charged. Modules:
`terms` what is agreed, `lattice` rounding, clamp and modulus, `keys` who is who, `masks` the pads, `site` the
state machine of a site and `state` its files, `server` the coordinator's half.

Not covered: a site that says that it added noise and did not (count it as a colluder), a site that poisons the sum,
a site whose files *and* ledger are both brought back from a backup unnoticed. The time until a site answers shows
how much it computed: pad it where the size of a draw must not show.
"""

from __future__ import annotations

from privacy.secure_sum.keys import Introduction
from privacy.secure_sum.lattice import Lattice
from privacy.secure_sum.request import Request
from privacy.secure_sum.server import Coordinator
from privacy.secure_sum.site import Account, Site
from privacy.secure_sum.terms import PeerRules, SharedNoise, Terms

__all__ = [
    "Account",
    "Coordinator",
    "Introduction",
    "Lattice",
    "PeerRules",
    "Request",
    "SharedNoise",
    "Site",
    "Terms",
]
