"""What is exported: the model of a run, and what may be said of it."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmmed.config import RunConfig
from mmmed.data.batch import Batch
from mmmed.data.made_up import made_up_records
from mmmed.errors import ModelError
from mmmed.inference import inputs
from mmmed.inference.run_facts import at_most
from mmmed.modalities import MODALITIES
from mmmed.modalities.text import TextModel
from mmmed.models import MultimodalModel, load_model
from mmmed.models.names import in_words

_MADE_UP = 5  # patients; the first record has everything, the second nothing


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        network: in evaluation mode.
        config: of the run that trained it.
        privacy: ``summary`` and ``definition`` of the run's privacy report (epsilon, delta, unit, in a sentence);
            None where there is no report.
    """

    network: MultimodalModel
    config: RunConfig
    privacy: dict[str, Any] | None = None


def read_trained(folder: Path) -> Trained:
    """The final model of a run folder, or of a model folder, and what the run's report says of it.

    Raises:
        ModelError: a file is missing, damaged, or the two do not belong together; or the report is no JSON object.
    """
    model = folder / "model" if (folder / "model").is_dir() else folder
    return Trained(*load_model(model), _privacy(model.absolute().parent / "report" / "privacy.json"))


def _privacy(report: Path) -> dict[str, Any] | None:
    if not report.is_file():
        return None
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        return {part: found[part] for part in ("summary", "definition")}
    except (ValueError, LookupError, TypeError) as error:
        raise ModelError(
            f"{report}: expected a privacy report with summary and definition: {error}"
        ) from error


def example(config: RunConfig) -> Batch:
    """Made-up records as the model reads them: the first has everything, the second nothing, others this or that."""
    records = made_up_records(config, _MADE_UP)
    return records.batch(np.arange(len(records)), records.patient)


def described(trained: Trained, batch: Batch) -> dict[str, Any]:
    """What who feeds the model must know, for JSON: its inputs, what it predicts, and its privacy.

    Args:
        trained: the model.
        batch: as `example` gives it.
    """
    config, target = trained.config, trained.config.task.target()
    return {
        "model": in_words(config),
        "task": target.words,
        "predictions": list(target.names),
        "inputs": {name: _input(config, name, batch) for name in trained.network.modalities},
        "privacy": trained.privacy,
    }


def _input(config: RunConfig, name: str, batch: Batch) -> dict[str, Any]:
    modality, given = MODALITIES[name], batch.inputs[name]
    settings = config.data.model_dump(mode="json", include=set(modality.data_keys.model_fields))
    if name == "text":
        settings["tokenizer"] = config.model.of(TextModel).text
    return {
        "preprocessing": " ".join((inspect.getdoc(type(modality)) or "").split()),
        "settings": settings,
        "values": _tensor(name, given.values.shape, str(given.values.dtype)),
        "present": _tensor(f"{name}_present", given.present.shape, str(given.present.dtype)),
    }


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    return {"name": name, "shape": ["records", *shape[1:]], "dtype": dtype.removeprefix("torch.")}


def card(trained: Trained, use: str) -> str:
    """A README in Markdown with what is known of the model here, and nothing else.

    Args:
        trained: the model.
        use: how it is loaded, as lines of Python.
    """
    target, name = trained.config.task.target(), in_words(trained.config)
    privacy = "No privacy report came with this model: take it for trained without a guarantee."
    if trained.privacy is not None:
        summary, definition = trained.privacy["summary"], trained.privacy["definition"]
        epsilon, condition = summary.get("epsilon"), summary.get("condition")
        spent = "" if epsilon is None else f"Epsilon {at_most(epsilon)} at delta {summary['delta']:g}. "
        unit = f"Unit: {definition['unit']}. Neighbours: {definition['adjacency']}."
        privacy = "\n\n".join([f"{spent}{condition or ''}".strip(), summary["sentence"], unit])
    return f"""---
library_name: mmmed
tags: [medical, multimodal, federated-learning, differential-privacy]
---
# {name}

Predicts {target.words}. Not a medical device, and not calibrated.

It reads any part of this: {", ".join(inputs(trained.config.data))}.

```python
{use}
```

## Privacy

{privacy}
"""
