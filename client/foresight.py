"""What a site would answer to a run, as far as no patient has a part in it.

The question goes through the stages of a request that come before the data set is opened, in their order: the policy,
a person's approval, the frozen weights, the run tried on made-up records. How many patients there are, and what they
were spent, is left out: it would be told at no cost.
"""

from __future__ import annotations

from client.gate import Place
from client.model import check_weights
from client.release import AwaitsApproval
from client.run_request import purposes
from client.trial import try_run
from mmmed.errors import MmmedError
from mmmed.federation.protocol import Request
from privacy.errors import PrivacyError


def foreseen(place: Place, request: Request) -> tuple[Exception | None, str]:
    """The error that a run would end in before the data set is opened, None if in none; and for which purpose.

    The ledger is looked at, for the policy that it has recorded and the time that it knows; nothing is written.
    """
    asked, purpose = purposes(request.config), ""
    try:
        for purpose in asked:
            place.foresee(request.config, purpose)
        purpose = asked[0]
        if place.approves:  # it is not worth a trial before somebody wants the run
            raise AwaitsApproval("a new run waits here for `mmmed site approve`")
        check_weights(request.config, request.frozen)
        try_run(request.config)
    except (MmmedError, PrivacyError) as error:
        return error, purpose
    return None, ""
