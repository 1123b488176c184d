"""The site's privacy ledger: a budget that survives restarts, and says no."""

from privacy.ledger.admission import charged_event
from privacy.ledger.clock import Clock
from privacy.ledger.export import verify_export
from privacy.ledger.identity import DatasetIdentity, dataset_identity
from privacy.ledger.ledger import Ledger
from privacy.ledger.links import Head, Receipt
from privacy.ledger.reservation import Reservation
from privacy.ledger.state import Budget, Plan, Sublimit, evaluation_id, policy_digest

__all__ = [
    "Budget",
    "Clock",
    "DatasetIdentity",
    "Head",
    "Ledger",
    "Plan",
    "Receipt",
    "Reservation",
    "Sublimit",
    "charged_event",
    "dataset_identity",
    "evaluation_id",
    "policy_digest",
    "verify_export",
]
