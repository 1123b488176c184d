"""Strategies: what a round's combined update does to the global model. Each is one file here and one section below.

The code of a strategy is a `mmmed.federation.strategies.base.Halves`: what it does at the server and at a site.

FedAvg, FedAvgM (Hsu et al. 2019, arXiv 1909.06335), FedAdam, FedYogi and FedAdagrad (Reddi et al. 2020, arXiv
2003.00295, algorithm 2), SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from mmmed.section import Kind, Kinds, PositiveFloat

if TYPE_CHECKING:
    from mmmed.config import RunConfig
    from mmmed.federation.strategies.base import AtServer, Halves
    from mmmed.federation.updates import Arrays

__all__ = [
    "STRATEGIES",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Scaffold",
    "Strategy",
]


class Strategy(Kind):
    """How the server moves the global model.

    Attributes:
        needs_single_updates: whether it needs more of a round's updates than their sum.
        scales_coordinates: whether it moves each parameter by a scale of its own.
    """

    needs_single_updates: ClassVar[bool] = False
    scales_coordinates: ClassVar[bool] = False

    server_learning_rate: PositiveFloat = Field(
        1.0, description="how far the model goes along a round's update; 1 is plain averaging"
    )

    def halves(self) -> Halves:
        """The strategy's code for the server and for a site."""
        halves: Halves = self.load()
        return halves

    def at_server(self, run: RunConfig, initial: Arrays) -> AtServer:
        """The strategy's part at the server, for a run that begins with the parameters ``initial``."""
        return self.halves().server(self, run, initial)


class FedAvg(Strategy):
    """The mean of the sites' models."""

    implementation: ClassVar[str] = "mmmed.federation.strategies.fedavg:FEDAVG"

    kind: Literal["fedavg"] = "fedavg"


class FedAvgM(Strategy):
    """FedAvg with momentum at the server."""

    implementation: ClassVar[str] = "mmmed.federation.strategies.fedavg:FEDAVGM"

    kind: Literal["fedavgm"] = "fedavgm"
    momentum: float = Field(0.9, ge=0, lt=1, description="of the server's step")


class _Adaptive(Strategy):
    scales_coordinates: ClassVar[bool] = True

    server_learning_rate: PositiveFloat = Field(
        0.01,  # how far a parameter moves in a round: that of plain averaging, 1, would leave any model
        description="about how far each parameter moves in a round",
    )


class FedAdam(_Adaptive):
    """Adam at the server."""

    implementation: ClassVar[str] = "mmmed.federation.strategies.fedopt:FEDADAM"

    kind: Literal["fedadam"] = "fedadam"


class FedYogi(_Adaptive):
    """Yogi at the server."""

    implementation: ClassVar[str] = "mmmed.federation.strategies.fedopt:FEDYOGI"

    kind: Literal["fedyogi"] = "fedyogi"


class FedAdagrad(_Adaptive):
    """Adagrad at the server."""

    implementation: ClassVar[str] = "mmmed.federation.strategies.fedopt:FEDADAGRAD"

    kind: Literal["fedadagrad"] = "fedadagrad"


class Scaffold(Strategy):
    """Control variates correct what differs between sites in each local step."""

    needs_single_updates: ClassVar[bool] = True

    implementation: ClassVar[str] = "mmmed.federation.strategies.scaffold:SCAFFOLD"

    kind: Literal["scaffold"] = "scaffold"

    def check_run(self, run: Any) -> None:
        training = run.training
        if training.optimizer != "sgd" or training.momentum:
            raise ValueError(
                "federation.strategy 'scaffold' corrects plain SGD steps: set training.optimizer = 'sgd' and "
                f"training.momentum = 0. Found {training.optimizer!r} and {training.momentum:g}"
            )


STRATEGIES = Kinds(
    FedAvg, FedAdam, FedYogi, FedAdagrad, FedAvgM, Scaffold,
    refused={"fedprox": "its pull is training.proximal_mu, which goes with any strategy"},
)  # fmt: skip
