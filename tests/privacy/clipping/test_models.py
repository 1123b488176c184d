"""The architectures that the project trains, small, built from configuration, against the definition."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.nets import DenseNet, DenseNet121, EfficientNetBN, ResNet
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    SwinConfig,
    SwinModel,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from mmmed.config import RunConfig
from mmmed.data.batch import Batch, Input
from mmmed.models import build_model
from mmmed.models.fusion import FUSIONS
from mmmed.training import batch_losses
from privacy.clipping.bookkeeping import BookkeepingEngine
from privacy.clipping.units import Units
from privacy.clipping.validate import trainable
from privacy.dpsgd import PrivateStep
from tests.privacy.clipping.agreement import check, forced

R = 3
UNITS = {"records": torch.arange(R), "patients": torch.tensor([1, 0, 1])}
GROUP_NORM = ("group", {"num_groups": 2})
IDS = torch.tensor([[5, 6, 7, 0, 0], [8, 5, 5, 9, 3], [4, 4, 2, 1, 0]])
TEXT = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 10,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def images(size: int, channels: int = 1, dimensions: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(R, channels, *[size] * dimensions, generator=generator, dtype=torch.float64)


def resnet18() -> nn.Module:
    return ResNet(
        "basic",
        [2, 2, 2, 2],
        [4, 8, 8, 16],
        spatial_dims=2,
        n_input_channels=1,
        num_classes=3,
        norm=GROUP_NORM,
    )


def grouped(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, nn.GroupNorm(2, child.num_features))
        else:
            grouped(child)
    return model


def unet_encoder_3d() -> nn.Module:
    return nn.Sequential(
        ResidualUnit(3, 1, 4, strides=2, norm="INSTANCE", subunits=2),
        ResidualUnit(3, 4, 6, strides=2, norm=("INSTANCE", {"affine": True}), act="PRELU"),
        Convolution(3, 6, 6, conv_only=True),
    )


IMAGE_MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "ResNet18": (lambda: grouped(resnet18()), images(24)),
    "DenseNet121": (
        lambda: DenseNet121(2, 1, 3, init_features=8, growth_rate=4, bn_size=2, norm=GROUP_NORM),
        images(32),
    ),
    "DenseNet 3D": (
        lambda: DenseNet(
            3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2), bn_size=2, norm=GROUP_NORM
        ),
        images(9, dimensions=3),
    ),
    "3D U-Net encoder": (lambda: unet_encoder_3d(), images(8, dimensions=3)),
    "EfficientNet-B0": (
        lambda: EfficientNetBN(
            "efficientnet-b0", pretrained=False, in_channels=1, num_classes=3, norm=GROUP_NORM
        ),
        images(32),
    ),
    "ViT": (
        lambda: ViTModel(
            ViTConfig(
                hidden_size=8,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=12,
                image_size=12,
                patch_size=6,
                num_channels=1,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        ),
        images(12),
    ),
    "Swin": (
        lambda: SwinModel(
            SwinConfig(
                image_size=16,
                patch_size=2,
                num_channels=1,
                embed_dim=4,
                depths=[2, 1],
                num_heads=[1, 2],
                window_size=4,
                drop_path_rate=0.0,
            )
        ),
        images(16),
    ),
}


def see(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    out = model(pixels)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models(name: str, unit: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    build, pixels = IMAGE_MODELS[name]
    model = build().eval()  # EfficientNet's drop-connect is random in training
    check(model, (pixels,), UNITS[unit], dtype=kind, call=see)


@pytest.mark.parametrize("clipping", ["automatic", "per-group"])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models_clipped_otherwise(name: str, clipping: str) -> None:
    torch.manual_seed(0)
    build, pixels = IMAGE_MODELS[name]
    check(build().eval(), (pixels,), UNITS["patients"], clipping=clipping, call=see)


TEXT_MODELS: dict[str, Callable[[], nn.Module]] = {
    "BERT": lambda: BertModel(BertConfig(**TEXT)),
    "RoBERTa": lambda: RobertaModel(RobertaConfig(**TEXT, pad_token_id=0)),
    "DistilBERT": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=12, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=10, dropout=0.0,
            attention_dropout=0.0,
        )
    ),
    "GPT-2 with its tied head": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=12, n_embd=8, n_layer=2, n_head=2, n_positions=10, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    ),
    # biases by the distance of two words, which all notes share
    "MPNet": lambda: MPNetModel(MPNetConfig(**TEXT, pad_token_id=0)),
    "DeBERTa": lambda: DebertaV2Model(
        DebertaV2Config(**TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=4)
    ),
    "T5": lambda: T5EncoderModel(
        T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, dropout_rate=0.0)
    ),
}  # fmt: skip


def read(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    out = model(input_ids=ids, attention_mask=(ids > 0).long())
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models(name: str, unit: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    check(TEXT_MODELS[name](), (IDS,), UNITS[unit], dtype=kind, call=read)


@pytest.mark.parametrize("clipping", ["automatic", "per-group"])
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_text_models_clipped_otherwise(name: str, clipping: str) -> None:
    torch.manual_seed(0)
    check(TEXT_MODELS[name](), (IDS,), UNITS["patients"], clipping=clipping, call=read)


ADAPTED = {
    "BERT": ["query", "value"],
    "RoBERTa": ["query", "dense"],
    "DistilBERT": ["q_lin", "v_lin"],
    "GPT-2 with its tied head": ["c_attn"],  # a Conv1D
    "ViT": ["q_proj", "v_proj"],
}


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("clipping", ["flat", "per-group"])
@pytest.mark.parametrize("name", ADAPTED)
def test_low_rank_adapters_of_peft(name: str, clipping: str, kind: torch.dtype) -> None:
    peft = pytest.importorskip("peft", reason="peft is in the extra 'pretrained'")
    torch.manual_seed(0)
    image = name in IMAGE_MODELS
    base = IMAGE_MODELS[name][0]() if image else TEXT_MODELS[name]()
    turned = {"fan_in_fan_out": True} if "GPT-2" in name else {}
    config = peft.LoraConfig(r=2, target_modules=ADAPTED[name], lora_dropout=0.0, **turned)
    model = peft.get_peft_model(base, config).get_base_model()
    for parameter in trainable(model).values():  # adapters start at 0, where half of their gradients vanish
        nn.init.normal_(parameter, std=0.1)
    assert all("lora_" in parameter for parameter in trainable(model))
    inputs, call = (IMAGE_MODELS[name][1], see) if image else (IDS, read)
    check(model, (inputs,), UNITS["patients"], dtype=kind, clipping=clipping, call=call)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "GPT-2 with its tied head", "ViT"])
def test_checkpointed_encoders_against_the_definition(name: str, kind: torch.dtype) -> None:
    torch.manual_seed(0)
    image = name in IMAGE_MODELS
    model = (IMAGE_MODELS[name][0]() if image else TEXT_MODELS[name]()).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs, call = (IMAGE_MODELS[name][1], see) if image else (IDS, read)
    check(model, (inputs,), UNITS["patients"], dtype=kind, call=call)


def blocks() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks_against_the_definition(reentrant: bool) -> None:
    def call(m: nn.ModuleList, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(m[1], m[0](x), use_reentrant=reentrant)  # type: ignore[no-any-return]

    check(blocks(), (images(4)[:, 0],), UNITS["patients"], call=call)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_private_step_takes_a_checkpointed_encoder(reentrant: bool) -> None:
    """The check of the first batch as well, and with dropout, which a recomputed block has to repeat."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**(TEXT | {"hidden_dropout_prob": 0.2}))).train()
    releases = []
    for checkpointed in (False, True):
        mine = copy.deepcopy(model)
        if checkpointed:
            mine.gradient_checkpointing_enable({"use_reentrant": reentrant})
        options = {
            "noise_multiplier": 0.0,
            "allow_noiseless": True,
            "max_grad_norm": 1.0,
            "expected_units": 1.0,
        }
        step = PrivateStep(mine, torch.optim.SGD(mine.parameters(), lr=1.0), **options)  # type: ignore[arg-type]

        def record_losses(m: nn.Module = mine) -> torch.Tensor:
            torch.manual_seed(1)  # inside the step, where no seed from outside reaches
            return read(m, IDS).square().sum((1, 2))

        step(record_losses, UNITS["patients"])
        releases.append(torch.cat([p.detach().flatten() for p in mine.parameters()]))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((releases[0] - before).norm()) > 0.1
    assert float((releases[0] - releases[1]).norm()) < 1e-5


@pytest.mark.parametrize(
    ("part", "kind", "clipping"),
    [
        ("full", torch.float64, "flat"),
        ("full", torch.float32, "flat"),
        ("full", torch.float64, "automatic"),
        ("full", torch.float64, "per-group"),
        ("norm-bias", torch.float64, "flat"),
        ("lora", torch.float64, "flat"),
        ("lora", torch.float32, "per-group"),
        ("fusion-head", torch.float64, "flat"),
    ],
)
def test_the_fusion_model(part: str, kind: torch.dtype, clipping: str) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"image_width": 8, "fusion": {"width": 16, "heads": 2}, "trainable": part},
            "data": {"image_size": 32, "text_tokens": 8},
        }
    )
    words = torch.randint(1, 20, (R, 8), generator=torch.Generator().manual_seed(3))
    inputs = {
        "image": Input(images(32).clamp(0, 1), torch.tensor([[True], [False], [True]])),
        "text": Input(words, torch.tensor([[True], [True], [False]]).repeat(1, 8)),
    }
    check_fusion(build_model(config), inputs, kind, clipping)


@pytest.mark.parametrize("name", ["resnet10", "resnet18"])
def test_a_model_of_volumes(name: str) -> None:
    config = RunConfig.model_validate(
        {
            "model": {"volume": name, "volume_width": 8, "fusion": {"width": 16, "heads": 2}},
            "data": {"image": "", "text": "", "volume": "volume", "volume_size": 16},
        }
    )
    volumes = images(16, dimensions=3).clamp(0, 1)
    check_fusion(build_model(config), {"volume": Input(volumes, torch.tensor([[True], [False], [True]]))})


@pytest.mark.parametrize("fusion", FUSIONS.sections)
def test_a_model_of_everything(fusion: str) -> None:
    data = {"image_size": 32, "text_tokens": 8, "volume": "volume", "volume_size": 16}
    data |= {"numbers": {"age": [0, 90]}, "categories": {"sex": ["F", "M"], "stage": ["1", "2", "3"]}}
    small = {"image_width": 8, "volume_width": 8, "fusion": {"kind": fusion}}
    config = RunConfig.model_validate({"model": small, "data": data})
    draw = torch.Generator().manual_seed(3)
    inputs = {
        "image": Input(images(32).clamp(0, 1), torch.tensor([[True], [True], [False]])),
        "text": Input(torch.randint(1, 20, (R, 8), generator=draw), torch.rand(R, 8, generator=draw) < 0.6),
        "volume": Input(images(16, dimensions=3), torch.tensor([[False], [True], [True]])),
        "table": Input(
            torch.randn(R, 6, generator=draw, dtype=torch.float64), torch.rand(R, 3, generator=draw) < 0.6
        ),
    }
    assert set(inputs) == set(config.data.modalities)
    check_fusion(build_model(config), inputs)


def check_fusion(
    model: nn.Module,
    inputs: dict[str, Input],
    kind: torch.dtype = torch.float64,
    clipping: str = "flat",
) -> None:
    """Compare with the definition, patients as units."""

    def call(m: nn.Module, *flat: torch.Tensor) -> torch.Tensor:
        pairs = zip(flat[::2], flat[1::2], strict=True)
        given = {name: Input(*pair) for name, pair in zip(inputs, pairs, strict=True)}
        return m(Batch(given, *[torch.zeros(len(flat[0]), dtype=torch.int64)] * 2))

    nn.init.normal_(model.head.weight)  # the linear fusion's starts at zero, which would hide all before it
    flat = [tensor for one in inputs.values() for tensor in (one.values, one.present)]
    check(model.train(), tuple(flat), UNITS["patients"], dtype=kind, clipping=clipping, call=call)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.LayerNorm([12, 6, 6]),
    "RMS": lambda: nn.RMSNorm([12, 6, 6]),
    "group": lambda: nn.GroupNorm(3, 12),
    "instance": lambda: nn.InstanceNorm2d(12, affine=True),
    "fixed batch": lambda: nn.BatchNorm2d(12).eval(),
    "PReLU": lambda: nn.PReLU(12),
}


@pytest.mark.parametrize("name", NORMS)
def test_under_autocast_layers_work_in_the_types_that_autograd_uses(name: str) -> None:
    """Else a deep model drifts from the ordinary one, and the probe refuses it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), NORMS[name](), nn.GELU(), nn.Conv2d(12, 4, 3))
    inputs, units = torch.randn(8, 3, 8, 8), Units.of(torch.arange(8))

    def losses() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(inputs).float().square().sum((1, 2, 3))

    losses().sum().backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    found = BookkeepingEngine(model).clipped(losses, units, torch.ones_like).sums
    for key, gradient in expected.items():
        assert found[key].dtype == torch.float32
        torch.testing.assert_close(found[key], gradient, rtol=0, atol=0.02 * float(gradient.norm()))


def test_a_deep_model_under_autocast_is_the_ordinary_one() -> None:
    config = RunConfig.model_validate({"data": {"image_size": 64, "text_tokens": 12}})
    model = build_model(config).train()
    generator = torch.Generator().manual_seed(1)
    batch = Batch(
        inputs={
            "image": Input(torch.rand(R, 1, 64, 64, generator=generator), torch.ones(R, 1, dtype=torch.bool)),
            "text": Input(
                torch.randint(5, 50, (R, 12), generator=generator), torch.ones(R, 12, dtype=torch.bool)
            ),
        },
        label=torch.arange(R) % 2,
        unit=torch.arange(R),
    )
    batch_losses(model, config.task.target(), batch, "bfloat16").sum().backward()
    expected = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    found = BookkeepingEngine(model).clipped(
        lambda: batch_losses(model, config.task.target(), batch, "bfloat16"),
        Units.of(batch.unit),
        torch.ones_like,
    )
    error = torch.stack([(found.sums[key] - expected[key]).norm() for key in expected]).norm()
    assert error < 0.01 * torch.stack([value.norm() for value in expected.values()]).norm()


@pytest.mark.parametrize("way", ["keep", "ghost", "recompute"])
@pytest.mark.parametrize("name", ["linear", "convolution", "large convolution"])
def test_autocast_stays_close_and_bounds_what_it_releases(name: str, way: str) -> None:
    torch.manual_seed(0)
    width = 96 if name == "large convolution" else 8
    model: nn.Module = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4))
    inputs = torch.randn(8, 5, 16)
    if name != "linear":
        model = nn.Sequential(nn.Conv2d(3, width, 3), nn.GELU(), nn.Conv2d(width, width, 3), nn.Flatten(2))
        inputs = torch.randn(8, 3, 6, 6)

    def losses() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(inputs).float().square().sum((1, 2))

    engine, units = BookkeepingEngine(model.train()), Units.of(torch.arange(8))
    with forced(way):
        _bounds_what_it_releases(model, inputs, losses, engine, units)


def _bounds_what_it_releases(
    model: nn.Module,
    inputs: torch.Tensor,
    losses: Callable[[], torch.Tensor],
    engine: BookkeepingEngine,
    units: Units,
) -> None:
    low = engine.clipped(losses, units, torch.ones_like)
    full = engine.clipped(lambda: model(inputs).square().sum((1, 2)), units, torch.ones_like)
    assert all(value.dtype == torch.float32 for value in low.sums.values())
    assert torch.allclose(low.norms, full.norms, rtol=3e-2)
    assert not torch.equal(low.norms, full.norms)
    for record in range(8):  # what one record adds has exactly the norm that was booked for it

        def only(norms: torch.Tensor, record: int = record) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.tensor(record), len(norms)).to(norms.dtype) / norms

        part = engine.clipped(losses, units, only)
        released = torch.cat([value.flatten() for value in part.sums.values()]).norm()
        assert float(released) == pytest.approx(1.0, rel=1e-5)
