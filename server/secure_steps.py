"""Steps of masked sums at the server: who takes part, what is asked, and again where somebody is missing.

The masks cancel only in the sum over the whole cohort. Where a site is lost the attempt is void: the others are asked
again, as another attempt with a fresh draw and a charge of its own, for which the run's plan has room in advance
(``federation.repeats``). What a later process needs lies in the run's folder: the terms and keys that the run began
with, and the last request, which sites answer again with the very same words.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from mmmed.errors import RunError
from mmmed.federation.protocol import Refusal, SumRequest
from mmmed.files import replacing
from privacy.accounting import calibrate_noise_multiplier
from privacy.dpsgd import sensitivity
from privacy.errors import PrivacyError, SecureSumRefusal, VoidStep
from privacy.secure_sum import Coordinator, Introduction, Request, Terms
from privacy.secure_sum.keys import Bundle, read_introductions
from server.checkpoint import Arrays
from server.replies import Answer
from server.run_folder import RunFolder
from server.sites import Sites, packed
from server.update_store import shapes_of

log = logging.getLogger(__name__)

_AGREED, _ASKED = "secure-sum.json", "secure-sum-asked.json"
_SIGMA_TICKS = 10_000  # noise multipliers are charged in steps of 1e-4


class SecureSteps:
    """The steps of a run of masked sums.

    Args:
        folder: the run's.
        sites: asks them.
    """

    def __init__(self, folder: RunFolder, sites: Sites) -> None:
        self._folder, self._sites = folder, sites
        self._config, self._federation = folder.config, folder.config.federation
        self._coordinator: Coordinator | None = None
        self._keys = b""
        self._last: Request | None = None

    def begin(self, model: Arrays) -> None:
        """Agree with the sites on the run's terms and keys, or take up those that it began with.

        Raises:
            RunError: fewer sites than ``federation.min_sites`` joined, or the run's files cannot be read.
        """
        path = self._folder.path / _AGREED
        roster = self._join(SumRequest())  # in a later process, too: it learns which node is which site
        if not path.exists():
            self._agree(model, {name: answer.joined.key for name, answer in roster.items() if answer.joined})
        try:
            agreed = json.loads(path.read_text(encoding="utf-8"))
            terms = Terms.parse(base64.b64decode(agreed["terms"]))
            self._keys = base64.b64decode(agreed["keys"])
            self._coordinator = Coordinator(terms, read_introductions(self._keys))
            if (asked := self._folder.path / _ASKED).exists():
                step, attempt, cohort, digest = json.loads(asked.read_text(encoding="utf-8"))
                self._last = Request(step, attempt, tuple(cohort), bytes.fromhex(digest))
                self._coordinator.ask_again(self._last)
        except (ValueError, KeyError, TypeError, PrivacyError) as error:
            raise RunError(f"{path}: cannot be read: {error}. Start a new run") from error

    def step(self, number: int, model: Arrays) -> tuple[Arrays | None, list[Answer]]:
        """One step: the change of the model that the cohort's sum makes, None if there was no sum; and all answers.

        Each attempt that a site was asked for is charged there, whatever becomes of it.
        """
        assert self._coordinator is not None, "begin first"
        answers: dict[int, Answer] = {}
        digest, lost = hashlib.sha256(packed(model, "float32")).digest(), set[str]()
        request = self._resumed(number, digest)
        while True:
            try:
                request = request or self._ask(number, digest, lost)
                for answer in self._sites.masked(number, model, self._sum_request(request)):
                    answers[answer.node] = self._add(answer)
                total = self._coordinator.total()
            except VoidStep as void:
                log.warning(
                    "step %d, attempt %d is void: %s", number, request.attempt if request else 0, void
                )
                lost |= set(self._coordinator.missing)
                request = None
            except SecureSumRefusal as refusal:
                log.warning("step %d changed nothing: %s", number, refusal)
                return None, list(answers.values())
            else:
                return self._change(total, model, len(request.cohort)), list(answers.values())

    def _join(self, asked: SumRequest) -> dict[str, Answer]:
        """The answers of the sites that joined, by name."""
        answers = [answer for answer in self._sites.join(asked) if answer.joined is not None]
        return {answer.site: answer for answer in answers if answer.site is not None}

    def _agree(self, model: Arrays, roster: dict[str, str]) -> None:
        privacy, federation = self._config.privacy, self._federation
        self._enough(len(roster), "joined")
        sigma = calibrate_noise_multiplier(
            privacy.target_epsilon,
            privacy.delta,
            federation.sampling_rate,
            self._config.planned_rounds,
        )
        try:
            terms = Terms.planned(
                self._folder.run_id,
                roster,
                shapes_of(model),
                clip=sensitivity(privacy.max_grad_norm),
                noise_multiplier=math.ceil(sigma * _SIGMA_TICKS) / _SIGMA_TICKS,
                sampling_rate=federation.sampling_rate,
                steps=federation.rounds,
                repeats=federation.repeats,
                honest=federation.honest,
                least_cohort=federation.min_sites,
            )
        except SecureSumRefusal as error:
            raise RunError(f"The sites that joined cannot share a sum: {error}") from error
        came = self._join(SumRequest(terms.content))
        keys = Bundle(terms, list(_proper(terms, came.values())))
        self._enough(len(keys.names), "sent a key of the run")
        agreed = {
            "terms": base64.b64encode(terms.content).decode(),
            "keys": base64.b64encode(keys.content).decode(),
        }
        with replacing(self._folder.path / _AGREED) as partial:
            partial.write_text(json.dumps(agreed), encoding="utf-8")

    def _enough(self, found: int, what: str) -> None:
        if found < self._federation.min_sites:
            raise RunError(
                f"{found} sites {what}, and federation.min_sites is {self._federation.min_sites}. Where a site "
                "refused, its own log says why"
            )

    def _resumed(self, number: int, digest: bytes) -> Request | None:
        """The request of an earlier process, if this is its step."""
        last, self._last = self._last, None
        return last if last is not None and (last.step, last.model) == (number, digest) else None

    def _ask(self, number: int, digest: bytes, lost: set[str]) -> Request:
        assert self._coordinator is not None
        there = self._sites.wait_for(set(self._coordinator.names) - lost)
        request = self._coordinator.ask(number, sorted(there), digest)
        with replacing(self._folder.path / _ASKED) as partial:  # before it is sent: its number is used
            written = [request.step, request.attempt, request.cohort, request.model.hex()]
            partial.write_text(json.dumps(written), encoding="utf-8")
        return request

    def _sum_request(self, request: Request) -> SumRequest:
        assert self._coordinator is not None
        return SumRequest(self._coordinator.terms.content, self._keys, request.attempt, request.cohort)

    def _add(self, answer: Answer) -> Answer:
        """Take in a site's words; the answer without them."""
        assert self._coordinator is not None
        if answer.refused is None and answer.site is not None:
            try:
                self._coordinator.add(answer.site, answer.words)
            except SecureSumRefusal:
                answer = replace(answer, refused=Refusal.BAD_PAYLOAD)
        return replace(answer, words=b"")

    def _change(self, total: np.ndarray, model: Arrays, sites: int) -> Arrays:
        """The mean over the cohort of what one step of each site alone would have been."""
        training, change, start = self._config.training, {}, 0
        scaled = total * (-training.learning_rate / (training.batch_size * sites))
        for name, value in model.items():
            change[name] = scaled[start : start + value.size].reshape(value.shape).astype(np.float32)
            start += value.size
        return change


def _proper(terms: Terms, answers: Iterable[Answer]) -> Iterator[Introduction]:
    """Each site's own introduction, if it is one; whoever sent something else takes no part."""
    for answer in answers:
        try:
            (one,) = read_introductions(answer.joined.introduction if answer.joined else b"[]")
            if one.name == answer.site:
                Bundle(terms, [one])
                yield one
        except (SecureSumRefusal, ValueError) as error:
            log.warning("%s sent no key of the run: %s", answer.site, error)
