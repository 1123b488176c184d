"""Declare the two torchvision operator schemas that a CPU-only torch lacks.

torchvision's Python package registers fake kernels for ``torchvision::nms`` and ``torchvision::qnms``
when it is imported. Next to a CPU wheel of torch its compiled library does not load, the schemas do not
exist, and the import fails; transformers' model modules import torchvision when it is installed and fail
with it. Declaring the schemas (without kernels: nothing here calls them) lets both import.
"""

from __future__ import annotations

import contextlib

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library = torch.library.Library(
    "torchvision", "FRAGMENT"
)  # kept alive: a dropped library undoes its schemas

for _name, _schema in _SCHEMAS.items():
    with contextlib.suppress(RuntimeError):  # the compiled torchvision loaded and defined it already
        _library.define(f"{_name}{_schema}")
