"""What travels between the server and a site: requests, replies and refusals, to and from Flower's records.

A request carries the run's whole configuration and the tensors to work from. A site answers it with a reply, or
refuses it with a code; its reason stays in the site's log, since the text of an error may carry a name. The server uses
the same codes for an answer that does not come or cannot be used.

Neither side trusts what it reads here: a request that is no request is a `ConfigError` at the site, a reply that is no
reply is `Refused` at the server. Both are typed and bounded before anything of them is kept: what the `MOST_...` of
`bounds` say is all that another party can make this one store, in count, length and size. The names of the fields are
part of the format and stand in this package alone.

    requests    what is asked, and how a run is known
    replies     what is answered; `fields` reads what every reply holds
    refusals    the codes, with their meanings
    bounds      the most that a message may hold
    records     parts of Flower's records
"""

from mmmed.federation.protocol.fields import (
    PRIVACY,
    check_histograms,
    name_of,
    scores_of,
    site_of,
    stated_by,
    stated_of,
)
from mmmed.federation.protocol.records import tensor_bytes
from mmmed.federation.protocol.refusals import SITE_ERROR, Refusal, Refused, code_of, meaning, refusal_of
from mmmed.federation.protocol.replies import CheckReply, EvaluateReply, JoinReply, TrainReply
from mmmed.federation.protocol.requests import (
    CHECK,
    MODEL,
    Phase,
    Request,
    SumRequest,
    check_run,
    run_name,
    run_of,
)

__all__ = [
    "CHECK",
    "MODEL",
    "PRIVACY",
    "SITE_ERROR",
    "CheckReply",
    "EvaluateReply",
    "JoinReply",
    "Phase",
    "Refusal",
    "Refused",
    "Request",
    "SumRequest",
    "TrainReply",
    "check_histograms",
    "check_run",
    "code_of",
    "meaning",
    "name_of",
    "refusal_of",
    "run_name",
    "run_of",
    "scores_of",
    "site_of",
    "stated_by",
    "stated_of",
    "tensor_bytes",
]
