"""mmmed: one private imaging + clinical-text model, trained across hospitals that share no data.

The public names are those of `__all__`; they and the heavy libraries behind them are imported when they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmmed import _operators as _operators  # before whatever imports torchvision

if TYPE_CHECKING:
    from mmmed.api import Model, Run, load_model, predict, simulate
    from mmmed.config import RunConfig

__version__ = "0.1.0"

__all__ = ["Model", "Run", "RunConfig", "__version__", "load_model", "predict", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmmed.config" if name == "RunConfig" else "mmmed.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
