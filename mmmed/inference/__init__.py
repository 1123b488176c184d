"""Use a trained model: predict, and say how good it is with honest baselines."""

from mmmed.inference.evaluate import Evaluation, Interval, evaluate
from mmmed.inference.predict import Predictions, predict

__all__ = ["Evaluation", "Interval", "Predictions", "evaluate", "predict"]
