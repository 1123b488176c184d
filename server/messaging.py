"""Ask all sites at once and take their replies as they come, asking again where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from mmmed.federation.protocol import Refusal, code_of, refusal_of

_PAUSE, _LONGEST_PAUSE = 2.0, 60.0  # seconds before a site that holds the run is asked again
_SILENT = (0.25, 0.75)  # parts of the round's time after which a site that has said nothing is asked again


@dataclass
class _Request:
    """A message to a site, how it is going, and when it is sent again (None while a reply is awaited).

    `sent` are the ids under which it waits. `silent` counts how often the site was asked again because it had said
    nothing.
    """

    message: Message
    sent: list[str] = field(default_factory=list)
    lost: int = 0
    silent: int = 0
    pause: float = field(default_factory=lambda: _PAUSE)
    again: float | None = None
    last: Message | None = None

    def postponed(self, reply: Message, now: float) -> bool:
        """Whether to ask again instead of taking this reply."""
        code = code_of(reply) if reply.has_error() else ""
        refusal = refusal_of(code)
        again = refusal.ask_again if refusal else "no"
        if again == "until decided":
            self.again, self.pause = now + self.pause, min(2 * self.pause, _LONGEST_PAUSE)
        elif again == "once" and not self.lost:
            self.again, self.lost = now, 1
        else:
            return False
        self.last = reply
        return True


def gather(
    grid: Grid,
    messages: Sequence[Message],
    timeout: float,
    held: Callable[[Message, str], None] = lambda message, code: None,
) -> Iterator[tuple[Message, Message | None, float]]:
    """Send messages and yield (request, reply, seconds) as replies arrive, each reply then forgotten.

    A site that was lost while it worked is asked once more as soon as it is back; one that holds the run for approval
    is asked until it decides. One that is silent is asked again too, since a broken connection can swallow a message
    that counts as delivered; a site answers the same request from what it kept, at no cost. A request without a reply
    after ``timeout`` seconds is yielded with its last refusal, or None. Replies are matched by message id: an error
    reply for a lost node does not carry the node's own id. ``held`` is called with a request and the code each time a
    site answers that somebody there has to decide.
    """
    started = time.monotonic()
    waiting: dict[str, _Request] = {}
    later: list[_Request] = []
    for request in _push(grid, [_Request(message) for message in messages], waiting):
        yield request.message, None, 0.0  # not accepted: no reply will ever come
    while (waiting or later) and (elapsed := time.monotonic() - started) < timeout:
        due = _due(grid, later)
        for request in due:
            later.remove(request)
            # A new message: it has an id of its own and expires with the round.
            request.message = _copy(request.message, timeout - elapsed)
        later += _push(grid, due, waiting)
        if pull_interval(grid):  # else nothing lies between the grid and its sites
            _ask_the_silent(grid, waiting, elapsed, timeout)
        replies = list(grid.pull_messages(waiting.keys()))
        for reply in replies:
            answered = waiting.pop(reply.metadata.reply_to_message_id, None)
            if answered is None:  # another reply to a request that was sent twice
                continue
            # A request that was sent again waits under several ids; its first reply ends them all.
            for other in answered.sent:
                waiting.pop(other, None)
            answered.sent.clear()
            if answered.postponed(reply, time.monotonic()):
                later.append(answered)
                if (code := code_of(reply)) == Refusal.HELD:
                    held(answered.message, code)
            else:
                yield answered.message, reply, time.monotonic() - started
        # A grid with an interval of 0 waits within `pull_messages`, or does the sites' work there. Another is looked at
        # more often while the requests are young: a single step is answered within a second or two.
        if not replies and (waiting or later):
            interval = min(pull_interval(grid), 0.1 + elapsed / 10)
            time.sleep(interval if pull_interval(grid) else (0.0 if waiting else _PAUSE / 10))
    for request in [*{id(request): request for request in waiting.values()}.values(), *later]:
        yield request.message, request.last, time.monotonic() - started


def pull_interval(grid: Grid) -> float:
    """Seconds between two looks at a grid: its own ``pull_interval`` if it has one, else 1."""
    return float(getattr(grid, "pull_interval", 1.0))


def _push(grid: Grid, requests: list[_Request], waiting: dict[str, _Request]) -> list[_Request]:
    """Send; those that were accepted now wait for their reply, the others are returned."""
    accepted = {str(i) for i in grid.push_messages([r.message for r in requests]) if i} if requests else set()
    refused = []
    for request in requests:
        if (number := request.message.metadata.message_id) in accepted:
            waiting[number] = request
            request.sent.append(number)
        else:
            refused.append(request)
    return refused


def _ask_the_silent(grid: Grid, waiting: dict[str, _Request], elapsed: float, timeout: float) -> None:
    """Ask again who has said nothing for the next part of the time; whichever reply is first counts."""
    for request in {id(request): request for request in waiting.values()}.values():
        if request.silent < len(_SILENT) and elapsed >= _SILENT[request.silent] * timeout:
            request.silent += 1
            again = _copy(request.message, timeout - elapsed)
            for number in grid.push_messages([again]):
                if number:  # else its node is away, and an error reply on its way
                    waiting[str(number)] = request
                    request.sent.append(str(number))


def _due(grid: Grid, later: Iterable[_Request]) -> list[_Request]:
    """The requests whose pause is over and whose node is there."""
    ready = [request for request in later if request.again is not None and request.again <= time.monotonic()]
    if not ready:
        return []
    there = set(grid.get_node_ids())
    return [request for request in ready if request.message.metadata.dst_node_id in there]


def _copy(message: Message, seconds: float) -> Message:
    """The same request, to be fetched within so many seconds."""
    about = message.metadata
    return Message(
        message.content, about.dst_node_id, about.message_type, ttl=seconds, group_id=about.group_id
    )
