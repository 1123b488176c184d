"""Which models have an ONNX form: every encoder with one fusion, every fusion with one pair of encoders."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest
from torch import nn

from mmmed.config import RunConfig
from mmmed.errors import ModelError
from mmmed.export import write
from mmmed.export.trained import Trained
from mmmed.extras import is_installed
from mmmed.modalities import MODALITIES
from mmmed.modalities.text import WORDS
from mmmed.models import build_model, trunks
from mmmed.models.fusion import FUSIONS
from tests.contracts.test_encoder import LARGER
from tests.contracts.test_modality import COLUMNS, SMALL

REFUSED: set[str] = set()  # what torch cannot export; docs/export.md lists them
PRETRAINED = ("efficientnet-lite0", "minilm")


def encoders() -> list[tuple[str, str]]:
    """Modality and encoder."""
    found = []
    for modality, one in MODALITIES.items():
        if modality == "views":  # whose encoders are those of images
            found.append((modality, "resnet10"))
            continue
        names = typing.get_args(one.model_keys.model_fields[modality].annotation)
        found += [(modality, name) for name in names or ("tiny", "minilm", *WORDS)]
    return found


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block a stage; two where every second one shifts its windows."""
    for name, stages in trunks.DEPTHS.items():
        monkeypatch.setitem(trunks.DEPTHS, name, [2, 1, 1, 1] if "swin" in name else [1] * len(stages))


def check(config: RunConfig, name: str, out: Path) -> None:
    model = build_model(config).eval()
    nn.init.normal_(model.head.weight)  # one that starts at zero would hide all before it
    trained = Trained(model, config)
    if name in REFUSED:
        with pytest.raises(ModelError, match=f"cannot be exported as ONNX .*{name}"):
            write(trained, "onnx", out)
    else:
        write(trained, "onnx", out)
    assert out.exists() == (name not in REFUSED)


def config(*modalities: str, size: dict[str, int] | None = None, **model: object) -> RunConfig:
    data = {"image": "", "text": "", **SMALL["data"], **(size or {})}
    for name in modalities:
        data |= COLUMNS[name]
    return RunConfig.model_validate({**SMALL, "data": data, "model": {**SMALL["model"], **model}})


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUSIONS.sections)
def test_a_fusion_is_exported_or_refused(kind: str, tmp_path: Path) -> None:
    check(config("text", "table", fusion={"kind": kind}), kind, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(("modality", "name"), encoders(), ids=[" ".join(one) for one in encoders()])
def test_an_encoder_is_exported_or_refused(modality: str, name: str, tmp_path: Path) -> None:
    if name in PRETRAINED and not is_installed("pretrained"):
        pytest.skip("the extra `pretrained` is not installed")
    model: dict[str, object] = {"fusion": {"kind": "linear"}}
    model["image" if modality == "views" else modality] = name
    if name == "tf-idf":
        model["text_public"] = str(tmp_path / "public.txt")
        (tmp_path / "public.txt").write_text("no lesion in the left lung\na small lesion\n", encoding="utf-8")
    large = name in LARGER or name.startswith("efficientnet")
    size = {"image_size": 64, "volume_size": 32} if large else None
    check(config(modality, size=size, **model), name, tmp_path / "out")
