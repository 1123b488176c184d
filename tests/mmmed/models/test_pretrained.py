"""Encoders with pretrained weights: what they load, what stays frozen, what is refused."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.errors import ModelError
from mmmed.models import (
    build_model,
    frozen_digests,
    load_model,
    load_tokenizer,
    save_model,
    trainable_state,
)
from mmmed.models.fusion import FUSIONS
from mmmed.models.image import build_image_encoder
from mmmed.tasks import Classification
from mmmed.training import make_optimizer
from privacy.dpsgd import PrivateStep
from tests.mmmed.models.test_models import SIZES, local_folder

CLASSES = Classification().target()
SIZE, TOKENS = 64, 12
PRETRAINED = {
    "image": "efficientnet-lite0",
    "text": "minilm",
    "fusion": {"kind": "linear"},
    "trainable": "fusion-head",
}


def configured(model: dict[str, Any], **sections: Any) -> RunConfig:
    data = {"image_size": SIZE, "text_tokens": TOKENS} | sections.pop("data", {})
    return RunConfig.model_validate({"data": data, "model": model, **sections})


def a_batch(rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.arange(rows) % TOKENS + 1
    return Batch(
        inputs={
            "image": Input(
                torch.rand(rows, 1, SIZE, SIZE, generator=generator), torch.ones(rows, 1, dtype=torch.bool)
            ),
            "text": Input(
                torch.randint(5, 200, (rows, TOKENS), generator=generator),
                torch.arange(TOKENS) < lengths[:, None],
            ),
        },
        label=torch.arange(rows) % 2,
        unit=torch.arange(rows),
    )


def take_private_step(model: nn.Module, config: RunConfig, batch: Batch) -> None:
    step = PrivateStep(
        model.train(),
        make_optimizer(model, config.training),
        noise_multiplier=1,
        max_grad_norm=1,
        expected_units=4,
        engine="bookkeeping",
    )
    step(lambda: CLASSES.losses(model(batch), batch.label), batch.unit)


def test_packaged_encoders_train_only_what_follows_them() -> None:
    config, batch = configured(PRETRAINED), a_batch()
    model = build_model(config)
    assert set(trainable_state(model)) == {"head.weight", "head.bias"}
    assert trainable_state(model)["head.weight"].shape == (1, 1280 + 384)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if "head" not in name}
    with torch.no_grad():
        features = [model.train(mode).encoder("image")(batch.inputs["image"]) for mode in (True, False)]
    assert torch.equal(*features)  # BatchNorm by the statistics that it came with
    take_private_step(model, config, batch)
    assert all(torch.equal(frozen[name], model.state_dict()[name]) for name in frozen)
    assert model.head.weight.abs().sum() > 0


def test_records_do_not_meet_in_a_frozen_encoder() -> None:
    model, batch = build_model(configured(PRETRAINED)).train(), a_batch()
    nn.init.normal_(model.head.weight)
    with torch.no_grad():
        alone = torch.cat([model(batch[slice(i, i + 1)]) for i in range(len(batch))])
        torch.testing.assert_close(model(batch), alone, rtol=1e-4, atol=1e-4)


def test_similar_notes_are_near_each_other() -> None:
    """The weights are really there: chance would not order these."""
    model = build_model(configured(PRETRAINED))
    notes = ["large pleural effusion on the left", "fluid in the left pleural space", "no acute fracture"]
    encoded = load_tokenizer("minilm")(
        notes, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    given = Input(encoded["input_ids"], encoded["attention_mask"].bool())
    with torch.no_grad():
        same, other = torch.nn.functional.cosine_similarity(
            model.encoder("text")(given)[:1, 0], model.encoder("text")(given)[1:, 0]
        )
    assert same > other + 0.2


@pytest.mark.parametrize(
    ("key", "value"), [("image", "efficientnet-lite0"), ("text", "minilm"), ("trainable", "lora")]
)
def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, key: str, value: str) -> None:
    real = importlib.util.find_spec

    def absent(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name.startswith(("gt_all", "efficientnet", "peft")) else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(ModelError, match=rf"model\.{key}.*extra `pretrained`"):
        build_model(configured({"trainable": "fusion-head", key: value}))


@pytest.mark.parametrize("trainable", ["full", "norm-bias"])
@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18"])
def test_batchnorm_is_trained_on_the_statistics_that_it_came_with(
    tmp_path: Path, name: str, trainable: str
) -> None:
    given: dict[str, Any] = {"image": name, "fusion": {"kind": "linear"}, "trainable": trainable}
    if name == "resnet18":
        torch.save(_torchvision(name).state_dict(), tmp_path / "resnet18.pt")
        given |= {"image_width": 64, "image_weights": str(tmp_path / "resnet18.pt")}
    config, batch = configured(given), a_batch()
    model = build_model(config)
    nn.init.normal_(model.head.weight)  # else nothing reaches the encoders yet
    before = {key: value.clone() for key, value in model.state_dict().items()}
    take_private_step(model, config, batch)
    after = model.state_dict()
    statistics = {key for key in before if "running" in key}
    assert statistics
    assert all(torch.equal(before[key], after[key]) for key in statistics)
    scales = {key.replace("running_mean", "weight") for key in statistics if "mean" in key}
    assert all(not torch.equal(before[key], after[key]) for key in scales)
    weights = [key for key in after if "conv" in key and key.endswith("weight")]
    assert all(torch.equal(before[key], after[key]) == (trainable == "norm-bias") for key in weights)
    digests = frozen_digests(model, config)
    after[statistics.pop()].add_(1)  # another site's would be another model
    assert frozen_digests(model, config)["image"] != digests["image"]


def test_records_do_not_meet_in_batchnorm_that_is_trained() -> None:
    encoder = build_model(configured(PRETRAINED | {"trainable": "full"})).train().encoder("image")
    for module in encoder.modules():
        if hasattr(module, "id_skip"):
            module.eval()  # drops records at random in training
    image = a_batch().inputs["image"]
    with torch.no_grad():
        alone = torch.cat([encoder(image[slice(i, i + 1)]) for i in range(4)])
        torch.testing.assert_close(encoder(image), alone, rtol=1e-4, atol=1e-4)


def _torchvision(name: str) -> nn.Module:
    """A torchvision network whose BatchNorm statistics are not those of a new one."""
    from torchvision import models

    torch.manual_seed(0)
    donor: nn.Module = getattr(models, name)(weights=None).train()
    with torch.no_grad():
        for _ in range(3):
            donor(torch.randn(4, 3, SIZE, SIZE))
    return donor.eval()


@pytest.mark.parametrize(("name", "width"), [("resnet18", 64), ("densenet121", 16)])
@pytest.mark.parametrize("bundle", [False, True])
def test_torchvision_weights_give_torchvision_features(
    tmp_path: Path, name: str, width: int, bundle: bool
) -> None:
    donor = _torchvision(name)
    path = tmp_path / "models" / "model.pt" if bundle else tmp_path / "weights.safetensors"
    path.parent.mkdir(exist_ok=True)
    if bundle:
        torch.save(donor.state_dict(), path)
    else:
        save_file(donor.state_dict(), path)
    given = tmp_path if bundle else path
    config = configured(
        {"image": name, "image_width": width, "image_weights": str(given), "image_scaling": "imagenet"}
    )
    encoder = build_image_encoder(config.model, channels=1).eval()
    grey = torch.rand(2, 1, SIZE, SIZE)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (grey.expand(-1, 3, -1, -1) - mean[:, None, None]) / deviation[:, None, None]
    with torch.no_grad():
        pooled = encoder(Input(grey, torch.ones(2, 1, dtype=torch.bool))).mean(1)
        last = donor.fc if name == "resnet18" else donor.classifier
        torch.testing.assert_close(last(pooled), donor(colour), rtol=1e-4, atol=1e-5)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="MONAI bundle"):
        build_image_encoder(configured({"image_weights": str(tmp_path)}).model, 1)


@pytest.mark.parametrize("fusion", FUSIONS.sections)
def test_adapters_train_and_travel_with_what_follows_the_encoders(tmp_path: Path, fusion: str) -> None:
    text = local_folder(tmp_path / "bert", **SIZES)
    config = configured(
        {
            "image": "resnet10",
            "text": str(text),
            "fusion": {"kind": fusion},
            "trainable": "lora",
            "lora_rank": 2,
        }
    )
    plain = configured({"text": str(text), "fusion": {"kind": fusion}, "trainable": "fusion-head"})
    model, batch = build_model(config), a_batch()
    travelling = trainable_state(model)
    adapters = {name for name in travelling if "lora_" in name}
    assert len(adapters) == 4  # two matrices each at the query and the value of one layer
    assert set(travelling) - adapters == set(trainable_state(build_model(plain)))
    given = batch.inputs["text"]
    with torch.no_grad():  # nothing at first
        features = [build_model(one).eval().encoder("text")(given) for one in (config, plain)]
    torch.testing.assert_close(*features)
    before = {name: value.clone() for name, value in travelling.items()}
    take_private_step(model, config, batch)
    moved = [name for name, value in trainable_state(model).items() if not torch.equal(value, before[name])]
    assert adapters <= set(moved)
    save_model(tmp_path / "saved", model, config)
    loaded, _ = load_model(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), model.eval()(batch), rtol=0, atol=0)


def test_adapters_need_notes() -> None:
    with pytest.raises(ValueError, match="adapts the text encoder"):
        configured({"trainable": "lora"}, data={"text": ""})


def test_missing_modalities_are_zero_in_the_linear_fusion() -> None:
    model, batch = build_model(configured({"fusion": {"kind": "linear"}})).eval(), a_batch()
    nn.init.normal_(model.head.weight)
    nothing = {name: Input(one.values, torch.zeros_like(one.present)) for name, one in batch.inputs.items()}
    with torch.no_grad():
        assert torch.equal(
            model(Batch(nothing, batch.label, batch.unit)), model.head.bias.expand(len(batch), 1)
        )


def test_monai_is_imported_only_where_it_is_used() -> None:
    """Its import costs each process seconds, and frozen encoders need none of it."""
    code = "import sys, client.app, simulations.simulate; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
