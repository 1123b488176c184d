"""Ask the connected sites what they would refuse of a run, before there is one.

The question is a Flower run of its own without a run folder: it is answered by the sites' policies and software alone,
costs nothing, and its answers lie in one file, from which `mmmed server check` prints them.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flwr.app import Message
from flwr.serverapp import Grid

from mmmed.config import RunConfig
from mmmed.errors import RunError
from mmmed.federation.protocol import CHECK_MESSAGE, CheckReply, Refusal, Refused, Request, code_of
from mmmed.files import write_atomic
from mmmed.models import frozen_digests
from server.app_config import CHECKS
from server.messaging import gather
from server.roster import Roster
from server.run import first_model

_PREFIX = "check:"  # begins what stands in the place of a run folder's name


@dataclass(frozen=True)
class SiteAnswer:
    """What one site would do.

    Attributes:
        site: its name; ``node-<id>`` if it is not known.
        refused: the code with which it would refuse, or why there is no answer; "" if it would take part.
        rule: the policy's rule, where that is the reason.
        purpose: what it would refuse.
        asked: whether the word is the site's own.
    """

    site: str
    refused: str = ""
    rule: str = ""
    purpose: str = ""
    asked: bool = True


def question(name: str) -> str:
    """What a Flower run has in the place of its run folder to be a question; `name` is the answers' file's."""
    return _PREFIX + name


def answers_file(run_folder: str) -> Path | None:
    """The file for the answers if this is a `question`, else None.

    Raises:
        RunError: it names no file below ``$MMMED_CHECKS``.
    """
    if not run_folder.startswith(_PREFIX):
        return None
    name = run_folder.removeprefix(_PREFIX)
    if Path(name).name != name or CHECKS not in os.environ:
        raise RunError(
            f"question {name!r}: expected a name below ${CHECKS}, as `mmmed server check` gives it"
        )
    return Path(os.environ[CHECKS]) / f"{name}.json"


def read_answers(file: Path) -> list[SiteAnswer] | None:
    """The answers in a file; None if there are none yet."""
    try:
        return [SiteAnswer(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return None


def ask_sites(grid: Grid, config: RunConfig, roster: Roster, file: Path) -> None:
    """Ask every site that is connected, and write the answers; nobody is waited for longer than a round's time."""
    frozen = frozen_digests(first_model(config), config)
    answers = sorted(_answers(grid, config, frozen, roster), key=lambda one: one.site)
    write_atomic(file, json.dumps([asdict(one) for one in answers]) + "\n")


def _answers(
    grid: Grid, config: RunConfig, frozen: Mapping[str, str], roster: Roster
) -> Iterator[SiteAnswer]:
    seconds = config.federation.round_timeout
    content = Request(f"check-{uuid.uuid4().hex}", 0, config, frozen, {}).to_record()
    messages = [
        Message(content, node, CHECK_MESSAGE, ttl=seconds, group_id="0")
        for node in sorted(grid.get_node_ids())
    ]
    for message, reply, _ in gather(grid, messages, seconds, lambda message, code: None):
        yield _read(message.metadata.dst_node_id, reply, roster, set(grid.get_node_ids()))


def _read(node: int, reply: Message | None, roster: Roster, connected: set[int]) -> SiteAnswer:
    """A site's answer; nothing that it sends raises."""
    name = roster.name(node) or f"node-{node}"
    if reply is None:
        return SiteAnswer(name, Refusal.NO_REPLY, asked=False)
    if reply.has_error():
        code = code_of(reply)
        return SiteAnswer(name, code, asked=code not in _NO_WORD)
    try:
        told = CheckReply.read(reply.content)
    except Refused as refusal:
        return SiteAnswer(name, str(refusal), asked=False)
    except Exception:  # whatever a site sends costs only that site
        return SiteAnswer(name, Refusal.BAD_RECORD, asked=False)
    if not roster.takes(node, told.site, lambda: connected):
        return SiteAnswer(name, Refusal.NAME_TAKEN, asked=False)
    return SiteAnswer(told.site, told.refused, told.rule, told.purpose)


_NO_WORD = {
    Refusal.NO_REPLY,
    Refusal.EXPIRED,
    Refusal.OFFLINE,
    Refusal.NO_APP,
    Refusal.CRASHED,
    Refusal.STOPPED,
    Refusal.FAILED,
}
