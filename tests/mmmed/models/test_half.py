"""Weights that were saved in half precision are trained in float32, or refused when the model is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmmed.errors import ModelError
from mmmed.models import build_model
from mmmed.models.image import build_image_encoder
from mmmed.tasks import Classification
from mmmed.training import make_optimizer
from privacy.dpsgd import PrivateStep
from tests.mmmed.models.test_models import a_batch, configured, local_folder

CLASSES = Classification().target()


def halved(folder: Path, kind: torch.dtype) -> Path:
    file = folder / "model.safetensors"
    state = {
        name: value.to(kind) if value.is_floating_point() else value
        for name, value in load_file(file).items()
    }
    save_file(state, file, {"format": "pt"})
    config = folder / "config.json"
    names = config.read_text().replace('"float32"', f'"{str(kind).removeprefix("torch.")}"')
    assert str(kind).removeprefix("torch.") in names
    config.write_text(names)
    return folder


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("trainable", ["full", "norm-bias", "fusion-head", "lora"])
def test_a_folder_saved_in_half_precision_trains_in_float32(
    tmp_path: Path, kind: torch.dtype, trainable: str
) -> None:
    folder = halved(local_folder(tmp_path / "bert"), kind)
    config = configured(model={"text": str(folder), "trainable": trainable}, data={"image": ""})
    model, batch = build_model(config).train(), a_batch(4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    step = PrivateStep(
        model,
        make_optimizer(model, config.training),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_units=3.0,
    )
    step(lambda: CLASSES.losses(model(batch), batch.label), torch.tensor([0, 0, 1, 2]))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_image_weights_in_half_precision_are_read_and_quantised_ones_refused(tmp_path: Path) -> None:
    good = build_image_encoder(configured(training={"seed": 5}).model, 1).trunk.state_dict()
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in good.items()}
    save_file(half, tmp_path / "half.safetensors")
    config = configured(model={"image_weights": str(tmp_path / "half.safetensors")})
    loaded = build_image_encoder(config.model, 1).trunk.state_dict()
    assert all(torch.equal(loaded[name], value.to(loaded[name].dtype)) for name, value in half.items())
    save_file(half | {"bn1.weight": good["bn1.weight"].to(torch.int8)}, tmp_path / "int8.safetensors")
    config = configured(model={"image_weights": str(tmp_path / "int8.safetensors")})
    with pytest.raises(ModelError, match=r"bn1\.weight.*float32.*int8"):
        build_image_encoder(config.model, 1)
