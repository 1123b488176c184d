"""A site's half: it checks, charges, notes, draws, masks, keeps, and only then sends.

    charge -> note -> draw, noise, mask -> keep -> send

Each is on disk before the next begins, so a process that dies between any two leaves no second vector under one mask
and no answer without its charge:

* died before the note: the attempt is charged and gives nothing. The account knows its number, so it is void.
* died between note and keep: its masks count as used. The attempt is void, and the next one has masks of its own.
* died between keep and send: the same request gets the very same bytes.

The files may be lost or come back from a backup. Then the account, which is kept elsewhere, is ahead of them: what it
has charged is never answered again, and no new key is made for a run that has been charged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.errors import SecureSumRefusal, VoidStep
from privacy.secure_sum.keys import Bundle, Introduction, introduce, pair_key, read_bundle
from privacy.secure_sum.masks import add_masks, mask_key, neighbours
from privacy.secure_sum.request import Request
from privacy.secure_sum.state import Note, State
from privacy.secure_sum.terms import Terms


class Account(Protocol):
    """The site's account of one run, kept apart from the run's files: its privacy ledger."""

    def last(self) -> int:
        """The number of the last attempt of this run that was charged; 0 before the first."""

    def charge(self, attempt: int) -> None:
        """Charge one release; on disk when this returns. Raises a PrivacyError where the budget does not allow it."""


class Site:
    """One site in one run. Any number of processes may make one for the same folder, one after another.

    Args:
        folder: of this run alone; it is made. The terms' digest is a good name for it.
        name: this site's, as on the roster.
        identity: the site's own key.
        terms: as judged by the site's officer (`PeerRules.check`).
        account: charged before anything is drawn.

    Raises:
        SecureSumRefusal: this site is not on the roster under its own key.
    """

    def __init__(
        self, folder: Path, name: str, identity: Ed25519PrivateKey, terms: Terms, account: Account
    ) -> None:
        if dict(terms.roster).get(name) != identity.public_key().public_bytes_raw().hex():
            raise SecureSumRefusal(
                f"The roster of run {terms.run!r} does not hold {name!r} with this site's own key."
            )
        self._state = State(folder)
        self._name, self._identity, self._account = name, identity, account
        self.terms = terms
        self._believed: Bundle | None = None
        self._pairs: dict[str, bytes] = {}

    def introduce(self) -> Introduction:
        """This site's key of the run, made at the first call.

        Raises:
            SecureSumRefusal: the run has ended here, or its secret key was lost.
        """
        with self._state.lock():
            secret = self._state.secret()
            if secret is None:
                if self._state.closed or self._state.bundle() is not None or self._account.last():
                    raise self._lost()
                secret = self._state.make_secret()
            return introduce(self.terms, self._name, self._identity, secret)

    def meet(self, introductions: Sequence[Introduction]) -> None:
        """Accept the keys of all sites of the run for good; the same keys may come again.

        Raises:
            SecureSumRefusal: a key is not what it should be, this site's own is not among them, the sites are
                too few for any cohort, or the run began with others.
        """
        with self._state.lock():
            pinned = self._state.bundle()
            bundle = Bundle(self.terms, introductions)
            if pinned is not None and pinned != bundle.content:
                raise SecureSumRefusal(
                    "Other keys than this run began with. A run keeps the keys of its first bundle."
                )
            secret = self._secret()
            if bundle.keys.get(self._name) != secret.public_key().public_bytes_raw():
                raise SecureSumRefusal(
                    f"The bundle does not hold the key that {self._name!r} made for this run."
                )
            if len(bundle.names) < self.terms.least_cohort:
                raise SecureSumRefusal(
                    f"Keys of {len(bundle.names)} sites. The terms ask for a cohort of {self.terms.least_cohort} or "
                    "more."
                )
            if pinned is None:
                self._state.believe(bundle.content)
            self._believed = bundle

    def answer(self, request: Request, draw: Callable[[], np.ndarray]) -> bytes:
        """The masked words for one attempt at one step.

        Args:
            request: as the server sent it, with the digest of the model that came with it.
            draw: makes the sum of clipped gradients over a fresh sample of patients, float32 or float64, shape [d]. It
                is called at most once, and only after the charge; it must not fail for what a record holds.

        Returns:
            Little-endian words, d x bits / 8 bytes; for the last request again the very same bytes.

        Raises:
            VoidStep: this attempt was begun before and its answer is lost.
            SecureSumRefusal: the request may not be answered, and nothing was charged; or `draw` made something else.
            PrivacyError: the account does not allow the charge.
        """
        with self._state.lock():
            secret, bundle = self._secret(), self._bundle()
            self._check(request, bundle)
            context = request.context(self.terms.digest, bundle.digest)
            kept = self._state.answer(context)
            if kept is not None:
                return kept
            self._check_new(request, context)
            self._account.charge(request.attempt)
            self._state.begin(Note(request.step, request.attempt, context))
            answer = self._masked(draw(), request, context, secret, bundle)
            self._state.keep(context, answer)
            return answer

    def close(self) -> None:
        """End the run at this site: its secret key and its answer are deleted, and it answers no more."""
        with self._state.lock():
            self._state.close()
        self._pairs.clear()

    def _check(self, request: Request, bundle: Bundle) -> None:
        terms, cohort = self.terms, request.cohort
        if self._name not in cohort or not set(cohort) <= set(bundle.names):
            raise SecureSumRefusal(
                f"cohort: expected {self._name!r} and other sites whose keys this run began with."
            )
        if len(cohort) < terms.least_cohort:
            raise SecureSumRefusal(
                f"cohort: {len(cohort)} sites. The terms ask for {terms.least_cohort} or more: fewer would not hide a "
                "patient."
            )
        if request.step > terms.steps:
            raise SecureSumRefusal(f"step: {request.step}. The terms plan {terms.steps}.")
        if request.attempt > terms.most_answers:
            raise SecureSumRefusal(
                f"attempt: {request.attempt}. The terms have room for {terms.most_answers}: {terms.steps} steps and "
                f"{terms.repeats} repeats. Plan more repeats where sites drop out often."
            )

    def _check_new(self, request: Request, context: bytes) -> None:
        """That neither this attempt nor a later one was ever begun: by the account, by the note, or by both."""
        note, charged = self._state.note(), self._account.last()
        if note is not None and note.context == context:
            raise VoidStep(f"Attempt {request.attempt} was begun and its answer is lost.")
        noted = note.attempt if note is not None else 0
        if request.attempt == charged != noted:
            raise VoidStep(f"Attempt {request.attempt} was charged and its answer is lost.")
        if request.attempt <= max(charged, noted):
            raise SecureSumRefusal(
                f"Attempt {request.attempt} does not come after attempt {max(charged, noted)}, which this site has "
                "begun. One mask hides one vector."
            )
        if note is not None and request.step < note.step:
            raise SecureSumRefusal(
                f"Step {request.step} does not come after step {note.step}, which was begun."
            )

    def _masked(
        self, vector: np.ndarray, request: Request, context: bytes, secret: X25519PrivateKey, bundle: Bundle
    ) -> bytes:
        lattice = self.terms.lattice
        words = lattice.noised(np.asarray(vector)).view(np.uint64).astype(lattice.word)  # modulo 2^bits
        keys = {}
        for other in neighbours(self._name, request.cohort, self.terms.honest, context):
            if other not in self._pairs:
                self._pairs[other] = pair_key(self.terms, secret, bundle.keys[other])
            keys[other] = mask_key(self._pairs[other], context)
        add_masks(words, self._name, keys)
        return words.tobytes()

    def _secret(self) -> X25519PrivateKey:
        secret = None if self._state.closed else self._state.secret()
        if secret is None:
            raise self._lost()
        return secret

    def _bundle(self) -> Bundle:
        if self._believed is None:
            content = self._state.bundle()
            if content is None:
                raise SecureSumRefusal("This site has not met the others of the run yet.")
            self._believed = read_bundle(self.terms, content)
        return self._believed

    def _lost(self) -> SecureSumRefusal:
        return SecureSumRefusal(
            f"Run {self.terms.run!r} has ended at this site, or its secret key is gone from {self._state.folder}. A "
            "run keeps its first keys: begin a new one."
        )
