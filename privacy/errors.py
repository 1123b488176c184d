"""Everything that privacy can refuse.

    PrivacyError
    ├── UnsupportedModel     the model holds or does something that per-unit clipping cannot cover
    │   └── UntrackedParameter   a parameter is used in a way whose per-record gradient is not known
    ├── StepError            a step was asked for with arguments that cannot be made private
    ├── NoiseError           noise cannot be drawn or added as asked
    ├── SamplingError        a sampler that does not do what the accounting assumes
    ├── AccountingError      an epsilon cannot be computed, or two accountants disagree
    ├── PlanError            no private mechanism can be made of what was asked
    ├── LedgerError          the ledger cannot be trusted, read or written
    ├── SigningKeyError      a key file cannot be read, or holds another kind of key
    ├── PolicyError          the site's policy cannot be read or trusted
    │   └── PolicyRefusal    the site's policy does not allow this
    ├── SecureSumRefusal     a site does not answer this request of a secure sum, or an answer cannot be added
    │   └── VoidStep         this attempt gives no sum: it has to be asked again as the next attempt
    ├── ReportError          a report, or a site's statement in it, cannot be read or trusted
    └── BudgetExceeded       the budget, or what a plan reserved, does not allow it

Every one of them means: stop, nothing was released.
"""

from __future__ import annotations


class PrivacyError(Exception):
    """Base of everything that privacy refuses."""


class UnsupportedModel(PrivacyError):
    """The model holds or does something that clipping each unit's gradient cannot cover."""


class UntrackedParameter(UnsupportedModel):
    """A parameter is used in a way whose per-record gradient is not known."""


class StepError(PrivacyError):
    """The arguments of a step do not make a private one."""


class NoiseError(PrivacyError):
    """Noise cannot be drawn or added with these arguments."""


class SamplingError(PrivacyError):
    """A sampler that does not do what the accounting assumes."""


class AccountingError(PrivacyError):
    """An epsilon cannot be computed, or two accountants disagree beyond their known error."""


class PlanError(PrivacyError):
    """No private mechanism exists for the requested run."""


class LedgerError(PrivacyError):
    """The ledger cannot be trusted, read or written."""


class SigningKeyError(PrivacyError):
    """A key file cannot be read, or holds another kind of key."""


class PolicyError(PrivacyError):
    """The site's policy cannot be read or trusted."""


class PolicyRefusal(PolicyError):
    """The site's policy does not allow the request.

    Attributes:
        rule: name of the rule, as in the policy file.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


class SecureSumRefusal(PrivacyError):
    """A site does not answer this request of a secure sum, or an answer cannot be added."""


class VoidStep(SecureSumRefusal):
    """This attempt gives no sum. The step needs another attempt, with a fresh draw and charge."""


class ReportError(PrivacyError):
    """A report, or a site's statement in it, cannot be read or trusted."""


class BudgetExceeded(PrivacyError):
    """The budget, or what is left of a plan, does not allow this."""
