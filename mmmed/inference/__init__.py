"""Use a trained model: predict, and say how good it is with honest baselines."""

from mmmed.inference.evaluate import Evaluation, Interval, evaluate
from mmmed.inference.explain import Detail, Shares, details, modality_shares
from mmmed.inference.predict import Predictions, predict
from mmmed.inference.study import cells_of, inputs, modalities_of, read_study

__all__ = [
    "Detail",
    "Evaluation",
    "Interval",
    "Predictions",
    "Shares",
    "cells_of",
    "details",
    "evaluate",
    "inputs",
    "modalities_of",
    "modality_shares",
    "predict",
    "read_study",
]
