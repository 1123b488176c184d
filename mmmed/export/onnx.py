"""A model as ONNX: tensors of each modality in, logits and predictions out.

It is written by torch's exporter, which follows the program itself, so that the number of records stays open. What it
wrote is asked by onnxruntime before anybody else gets it: an exporter may leave out what it does not see.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmmed.data.batch import Batch, Input
from mmmed.errors import ModelError
from mmmed.export.trained import Trained, described, example
from mmmed.models import MultimodalModel
from mmmed.models.names import in_words
from mmmed.models.tokens import load_tokenizer
from mmmed.tasks.base import Target
from mmmed.text import shown

FILE = "model.onnx"
DESCRIPTION = "model.json"
_OUTPUTS = ("logits", "predictions")
_TOLERANCE = 1e-5  # of a number, or of 1 if it is smaller


class Forward(nn.Module):
    """A model on tensors: values and flags of each modality, in order, to logits and predictions."""

    def __init__(self, network: MultimodalModel, target: Target) -> None:
        super().__init__()
        self.network, self._target = network, target

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, ...) values and (R, T) bool by turns -> (R, outputs) logits and (R, K) predictions."""
        pairs = zip(self.network.modalities, tensors[::2], tensors[1::2], strict=True)
        inputs = {name: Input(values, present) for name, values, present in pairs}
        nobody = torch.zeros(tensors[0].shape[0], dtype=torch.int64, device=tensors[0].device)
        logits = self.network(Batch(inputs, nobody, nobody))
        return logits, self._target.predictions(logits)


def write(trained: Trained, folder: Path) -> None:
    """Write ``model.onnx`` and ``model.json``, and the tokenizer of a model that reads notes.

    Raises:
        ModelError: torch cannot export the model, or onnxruntime computes anything else from it than torch does.
    """
    batch = example(trained.config)
    forward = Forward(trained.network, trained.config.task.target()).eval()
    with torch.no_grad():
        _write(trained, forward, batch, folder / FILE)
        _check(trained, forward, batch, folder / FILE)
    description = {
        "file": FILE, "outputs": list(_OUTPUTS), "checked_against_torch": {"within": _TOLERANCE},
        **described(trained, batch),
    }  # fmt: skip
    text = json.dumps(description, indent=2) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")
    if "text" in trained.network.modalities:
        load_tokenizer(description["inputs"]["text"]["settings"]["tokenizer"]).save_pretrained(
            folder / "tokenizer"
        )


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    """The tensors of a batch by their names in the file, in order."""
    found: dict[str, torch.Tensor] = {}
    for name, given in batch.inputs.items():
        found |= {name: given.values, f"{name}_present": given.present}
    return found


def _write(trained: Trained, forward: Forward, batch: Batch, file: Path) -> None:
    tensors = _tensors(batch)
    any_number = {0: torch.export.Dim.DYNAMIC}
    said = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            _ordinary_attention(),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                forward,
                tuple(tensors.values()),
                file,
                dynamo=True,
                input_names=list(tensors),
                output_names=list(_OUTPUTS),
                dynamic_shapes=(tuple(any_number for _ in tensors),),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in an encoder or a fusion
        raise _refusal(trained, f"torch cannot write it: {_first_line(error)}") from error


def _check(trained: Trained, forward: Forward, batch: Batch, file: Path) -> None:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is told below
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        read = {one.name for one in session.get_inputs()}
        if ignored := _tensors(batch).keys() - read:
            raise _refusal(trained, f"the file does not read {', '.join(sorted(ignored))}")
        for case, some in _cases(batch):
            given = _tensors(some)
            found = session.run(list(_OUTPUTS), {name: value.numpy() for name, value in given.items()})
            for output, mine, theirs in zip(_OUTPUTS, forward(*given.values()), found, strict=True):
                _compare(trained, f"{output} of {case}", mine.numpy(), theirs)
    except ModelError:
        raise
    except Exception as error:  # of onnxruntime's own kinds, which are bound to no class in common
        raise _refusal(trained, f"onnxruntime cannot run it: {_first_line(error)}") from error


def _cases(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Batches of one record and of several, whole and with each modality missing."""
    total = len(batch)
    yield "one record", batch[:1]
    yield "one record that lacks everything", batch[1:2]
    yield f"{total} records", batch
    yield "33 records", batch[torch.arange(33) % total]
    for name, given in batch.inputs.items():
        absent = {name: Input(given.values, torch.zeros_like(given.present))}
        yield f"{total} records without {name}", replace(batch, inputs={**batch.inputs, **absent})


def _compare(trained: Trained, what: str, mine: np.ndarray, theirs: Any) -> None:
    if mine.shape != theirs.shape:
        raise _refusal(trained, f"{what} are of shape {theirs.shape}, where torch gives {mine.shape}")
    apart = np.abs(mine - theirs) / np.maximum(1, np.abs(mine))
    if not (apart <= _TOLERANCE).all():  # also where one is not a number
        raise _refusal(trained, f"{what} are {float(np.max(apart)):.2g} apart from torch's")


def _refusal(trained: Trained, reason: str) -> ModelError:
    return ModelError(
        f"this model cannot be exported as ONNX ({in_words(trained.config)}): {reason}. "
        "`--to huggingface` and `--to monai` take every model"
    )


def _first_line(error: BaseException) -> str:
    """Of what was wrong at first: the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return shown((str(error).strip() or type(error).__name__).splitlines()[0])


@contextlib.contextmanager
def _ordinary_attention() -> Iterator[None]:
    """torch's layers of transformers without their fused kernel, which ONNX does not know."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
