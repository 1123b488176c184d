"""A trained model in the forms of other tools. Each form is one file here and one entry in the registry below.

What writes a form takes a `Trained` and an empty folder, and has read back what it wrote when it returns. Nothing here
imports torch before a form is written.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from mmmed.errors import ConfigError
from mmmed.extras import require

if TYPE_CHECKING:
    from mmmed.export.trained import Trained

__all__ = ["FORMATS", "Format", "check", "write"]


class Format(NamedTuple):
    """One form.

    Attributes:
        about: what is written, in words.
        extra: of mmmed that it needs, "" for none.
        implementation: "module:name" of what writes it, ``(trained, folder) -> None``.
    """

    about: str
    extra: str
    implementation: str


FORMATS: dict[str, Format] = {
    "onnx": Format("model.onnx, checked by onnxruntime", "export", "mmmed.export.onnx:write"),
    "huggingface": Format("a Hugging Face folder, safetensors", "", "mmmed.export.huggingface:write"),
    "monai": Format("a MONAI bundle", "", "mmmed.export.bundle:write"),
}


def check(to: str, out: Path) -> None:
    """Whether a model can be written in the form `to` here, as the new folder `out`.

    Raises:
        ConfigError: no such form, or `out` is there.
        MissingExtra: what the form needs is not installed.
    """
    if to not in FORMATS:
        raise ConfigError(f"--to {to}: expected one of {', '.join(FORMATS)}")
    if out.exists():
        raise ConfigError(f"--out {out}: it is there already. Give a new folder's name")
    if extra := FORMATS[to].extra:
        require(extra, f"mmmed export --to {to}")


def write(trained: Trained, to: str, out: Path) -> None:
    """Write the model in the form `to` as the new folder `out`, whole or not at all.

    Raises:
        ConfigError, MissingExtra: see `check`.
        ModelError: the model has no such form; its encoders, its fusion and the reason are named.
    """
    check(to, out)
    module, _, name = FORMATS[to].implementation.partition(":")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".part-{out.name}-", dir=out.absolute().parent) as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        getattr(import_module(module), name)(trained, folder)
        folder.rename(out)
