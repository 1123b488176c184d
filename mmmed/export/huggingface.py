"""A Hugging Face folder: the whole model for mmmed, and its text encoder for transformers where it is one of theirs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from mmmed._transformers import AutoModel, PreTrainedModel
from mmmed.export.trained import Trained, card, described, example
from mmmed.modalities.text import TextModel
from mmmed.models import MultimodalModel, load_tokenizer, save_model
from mmmed.models.text import TextEncoder

_USE = """import mmmed

model = mmmed.load_model("THIS FOLDER")  # with its folder model/
model.predict(...)"""


def write(trained: Trained, folder: Path) -> None:
    """Write ``model/`` (mmmed's own), ``mmmed.json``, ``README.md`` and, of a transformer, what `AutoModel` reads."""
    save_model(folder / "model", trained.network, trained.config)
    description = json.dumps(described(trained, example(trained.config)), indent=2) + "\n"
    (folder / "mmmed.json").write_text(description, encoding="utf-8")
    (folder / "README.md").write_text(card(trained, _USE), encoding="utf-8")
    encoder = text_encoder(trained.network)
    if encoder is not None and write_encoder(encoder, folder):
        load_tokenizer(trained.config.model.of(TextModel).text).save_pretrained(folder)


def write_encoder(encoder: PreTrainedModel, folder: Path) -> bool:
    """Write a text encoder for `AutoModel`, or nothing where that does not read it back, as one half of a T5."""
    before = set(folder.iterdir())
    merged(encoder).save_pretrained(folder)
    _, loaded = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    if all(key.startswith("pooler.") for key in loaded["missing_keys"]):  # which mmmed never uses
        return True
    for path in set(folder.iterdir()) - before:
        path.unlink()
    return False


def text_encoder(network: MultimodalModel) -> PreTrainedModel | None:
    """The transformer that reads notes, or None if there is none."""
    found = [one.encoder for one in network.modules() if isinstance(one, TextEncoder)]
    return found[0] if found else None


def merged(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy whose low-rank adapters, if it has any, are added to the layers that they adapt."""
    encoder = copy.deepcopy(encoder)
    for name, layer in list(encoder.named_modules()):
        if hasattr(layer, "lora_A"):
            layer.merge(safe_merge=True)
            encoder.set_submodule(name, layer.get_base_layer())
    return encoder
