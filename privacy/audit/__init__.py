"""The empirical audit: does the step that a site really runs do what the accountant is told?

`audit` takes a `Subject` (step, sampler, model on synthetic records, claim) and returns an `AuditResult`;
`dpsgd_subject` makes the subject of a site's own settings. docs/audit.md explains each check.
"""

from privacy.audit.demo import demo_subject
from privacy.audit.laws import LATTICE
from privacy.audit.result import FALSE_ALARM_RATE, AuditResult, Bound, Check
from privacy.audit.run import audit
from privacy.audit.subject import Batch, Batches, Part, PartLosses, Step, Subject, WholeBatch, dpsgd_subject

__all__ = [
    "FALSE_ALARM_RATE",
    "LATTICE",
    "AuditResult",
    "Batch",
    "Batches",
    "Bound",
    "Check",
    "Part",
    "PartLosses",
    "Step",
    "Subject",
    "WholeBatch",
    "audit",
    "demo_subject",
    "dpsgd_subject",
]
