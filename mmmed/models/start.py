"""A model that begins from the one of an earlier run: transfer to another task, or to further hospitals.

Only what is trained travels, so only that can begin from another model. What the new run freezes each member reads
from its own disk: where the earlier run has trained it, no site could have it, and the run is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mmmed.errors import ModelError
from mmmed.models.build import trainable_state
from mmmed.models.multimodal import MultimodalModel
from mmmed.models.store import load_model


def start_from(model: MultimodalModel, folder: Path) -> str:
    """Give the trainable parameters of `model` the values that they have in an earlier run's model.

    A parameter that the earlier model lacks, or has in another shape, such as the head of another task, stays as it
    was drawn.

    Args:
        model: of the new run; changed in place.
        folder: the earlier run's folder, or that of its model.

    Returns:
        What was taken and what was not, in a sentence.

    Raises:
        ModelError: the folder holds no model, the two have no trained parameter in common, or what the new run
            freezes is not the same in both.
    """
    earlier = load_model(folder)[0].state_dict()
    trained = trainable_state(model)
    for name, value in model.state_dict().items():
        if name in trained or name not in earlier or torch.equal(value, earlier[name]):
            continue
        raise ModelError(
            f"model.start = {str(folder)!r}: its {name} differs from this run's, which freezes it, and what is frozen "
            "does not travel to the sites. Train it here as well (model.trainable), or start from another run"
        )
    taken = [
        name for name, value in trained.items() if name in earlier and earlier[name].shape == value.shape
    ]
    if not taken:
        raise ModelError(
            f"model.start = {str(folder)!r}: its model has none of the parameters that this run trains. Expected one "
            "with the same encoders and fusion"
        )
    with torch.no_grad():
        for name in taken:
            trained[name].copy_(earlier[name])
    anew = sorted(trained.keys() - set(taken))
    return f"model.start: {len(taken)} of {len(trained)} trained tensors are those of {folder}" + (
        f"; drawn anew: {', '.join(anew[:6])}{' and others' * (len(anew) > 6)}" if anew else ""
    )
