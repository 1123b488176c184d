"""Planning before any record is read: the mechanism of a run (`mechanism`), and ways to spend a budget (`settings`)."""

from privacy.planning.mechanism import (
    TrainingPlan,
    check_delta,
    delta_is_large,
    plan_training,
    schedule,
    size_class,
)

__all__ = ["TrainingPlan", "check_delta", "delta_is_large", "plan_training", "schedule", "size_class"]
