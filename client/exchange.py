"""One round's exchange with the server: what came, what the run's strategy makes of it here, and what is sent.

All of it is made from what the server sent and from what the site releases anyway: no record is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from client.error_feedback import pack_update
from mmmed.federation.protocol import MODEL, Request
from mmmed.federation.strategies.base import SiteRound, Tensors
from mmmed.wire import unpack


class Exchange:
    """The site's half of one round.

    Args:
        about: the round as the strategy sees it, with at least the tensors that the strategy wants.

    Raises:
        ConfigError: what the server sent does not fit the model.
    """

    def __init__(self, about: SiteRound) -> None:
        section = about.run.federation.strategy
        self._about, self._half = about, section.halves().site(section, about)

    @classmethod
    def read(cls, request: Request, folder: Path) -> Self:
        """The exchange that a training request begins.

        Args:
            request: what came; its tensors are read here.
            folder: where the site keeps what outlasts a round of this run.

        Raises:
            WireError, ConfigError: the tensors are not what was agreed, or one is missing.
        """
        model, wants = unpack(request.packed(MODEL)), request.config.federation.strategy.halves().site.wants
        extras = {name: unpack(request.packed(name)) for name in wants}
        return cls(SiteRound(request.config, request.round, folder, model, extras))

    @property
    def incoming(self) -> Tensors:
        """The trainable parameters as they came, by name."""
        return self._about.model

    def correct(self, parameters: Tensors) -> None:
        """Move the parameters, in place, after a local step."""
        self._half.correct(parameters)

    def finish(self, parameters: Tensors, steps: int) -> tuple[bytes, dict[str, float]]:
        """The update as `mmmed.wire` bytes, and the numbers that the strategy tells with it.

        Args:
            parameters: what the site releases, by name.
            steps: local steps that were charged.

        Raises:
            WireError: a value is not finite: training diverged.
        """
        about = self._about
        update, sent = pack_update(
            parameters,
            about.model,
            about.run.federation.wire,
            residual=about.folder / "rounded",
            server_round=about.number,
        )
        return update, self._half.finish(sent, steps)
