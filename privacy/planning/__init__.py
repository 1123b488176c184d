"""Planning before any record is read: the mechanism of a run (`mechanism`), ways to spend a budget (`settings`),
and what a federation pays in noise by how its sites release updates (`releases`).
"""

from privacy.planning.mechanism import (
    TrainingPlan,
    check_delta,
    delta_is_large,
    plan_training,
    schedule,
    size_class,
)

__all__ = ["TrainingPlan", "check_delta", "delta_is_large", "plan_training", "schedule", "size_class"]
