"""Let torchvision be imported beside a torch that its compiled library does not fit.

torchvision's package describes its operators ``nms`` and ``qnms`` to torch when it is imported. Beside a CPU wheel
of torch the package index's torchvision does not load its library, nobody has declared these operators, and the
import fails, as does that of MONAI's and transformers' modules, which import torchvision. There the two are declared
here, without kernels (nothing calls them), and torchvision goes on.

Who declares an operator that the library registers later ends the process: so it is torchvision's own import that
decides, whoever starts it and whenever, and not a guess beforehand about the library. Until then nothing is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_PACKAGE = "torchvision"
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[Any] = []  # a torch.library.Library that is dropped takes its declarations back


def _declare() -> None:
    import torch

    library = torch.library.Library(_PACKAGE, "FRAGMENT")
    for name in _OPERATORS:
        library.define(name + _SCHEMA)
    _declared.append(library)


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except RuntimeError:
            extension = sys.modules.get(f"{_PACKAGE}.extension")
            if _declared or extension is None or extension._has_ops():
                raise
            _declare()
            super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _PACKAGE else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
            return spec
        return None  # the finders that follow decide


sys.meta_path.insert(0, _Finder())
