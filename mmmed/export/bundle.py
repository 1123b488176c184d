"""A MONAI bundle: ``configs/metadata.json``, ``configs/inference.json`` and ``models/model.pt``, as MONAI documents it.

`monai.bundle.run` with ``configs/inference.json`` predicts the one study that `study` names; `network` is the network.
mmmed must be installed where it is used: a file is read as in training, which MONAI's transforms do not do of notes and
tables.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mmmed.config import to_toml
from mmmed.export.trained import Trained, card, described, example

_INFERENCE: dict[str, Any] = {
    "imports": ["$import pathlib", "$import torch", "$import mmmed", "$import mmmed.config", "$import mmmed.models"],
    "bundle_root": ".",
    "study": {},
    "config": "$mmmed.config.resolve(pathlib.Path(@bundle_root, 'configs', 'mmmed.toml')).config",
    "network_def": "$mmmed.models.build_model(@config)",
    "weights": "$torch.load(pathlib.Path(@bundle_root, 'models', 'model.pt'), weights_only=True)",
    "load": "$@network_def.load_state_dict(@weights)",
    "network": "$@network_def.eval()",
    "prediction": "$mmmed.Model(@network, @config).predict(**@study)",
    "initialize": ["$@load"],
    "run": ["$print(@prediction.values)"],
}  # fmt: skip

_USE = """import monai.bundle  # in this folder

monai.bundle.run(config_file="configs/inference.json", study={"text": "No effusion."})"""


def write(trained: Trained, folder: Path) -> None:
    """Write the bundle."""
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir()
    state = {name: value.detach().cpu().clone() for name, value in trained.network.state_dict().items()}
    torch.save(state, folder / "models" / "model.pt")
    for name, content in (("metadata", metadata(trained)), ("inference", _INFERENCE)):
        (folder / "configs" / f"{name}.json").write_text(
            json.dumps(content, indent=2) + "\n", encoding="utf-8"
        )
    (folder / "configs" / "mmmed.toml").write_text(to_toml(trained.config), encoding="utf-8")
    (folder / "docs" / "README.md").write_text(card(trained, _USE), encoding="utf-8")


def metadata(trained: Trained) -> dict[str, Any]:
    """``metadata.json``: the keys that MONAI's bundle specification asks for, and the run's privacy."""
    batch = example(trained.config)
    told = described(trained, batch)
    inputs = {}
    for name, given in told["inputs"].items():
        for part in ("values", "present"):
            tensor = given[part]
            inputs[tensor["name"]] = {
                "type": "tensor", "format": name if part == "values" else "mask", "dtype": tensor["dtype"],
                "num_channels": tensor["shape"][1], "spatial_shape": tensor["shape"][2:], "value_range": [],
                "is_patch_data": False, "channel_def": {"0": f"{given['preprocessing']}"},
            }  # fmt: skip
    names = {str(number): name for number, name in enumerate(told["predictions"])}
    outputs = {
        "type": "tensor", "format": "logits", "dtype": "float32", "num_channels": trained.network.head.out_features,
        "spatial_shape": [], "value_range": [], "is_patch_data": False, "channel_def": names,
    }  # fmt: skip
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "meta_schema_20240725.json",
        "version": version("mmmed"),
        "changelog": {version("mmmed"): f"exported {datetime.now(UTC):%Y-%m-%d}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__,
        "numpy_version": version("numpy"),
        "required_packages_version": {"mmmed": version("mmmed")},
        "name": told["model"],
        "task": told["task"],
        "description": f"{told['model']}: {told['task']}",
        "authors": "see the run",
        "copyright": "see the run",
        "intended_use": "research; not a medical device",
        "network_data_format": {"inputs": inputs, "outputs": {"pred": outputs}},
        "privacy": told["privacy"],
    }
