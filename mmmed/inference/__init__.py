"""Use a trained model: predict, and say how good it is with honest baselines."""

from mmmed.inference.evaluate import Evaluation, Interval, evaluate
from mmmed.inference.explain import Shares, modality_shares
from mmmed.inference.predict import Predictions, predict
from mmmed.inference.study import inputs, modalities_of, read_study

__all__ = [
    "Evaluation",
    "Interval",
    "Predictions",
    "Shares",
    "evaluate",
    "inputs",
    "modalities_of",
    "modality_shares",
    "predict",
    "read_study",
]
