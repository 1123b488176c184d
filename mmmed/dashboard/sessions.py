"""Who is logged in: a token opens a session, a random cookie that ends after a day or with the process."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

COOKIE = "mmmed-session"
_LIFETIME = 24 * 3600.0  # seconds
_PAUSE = 1.0  # seconds that must pass after a wrong token before the next is looked at


class Guard:
    """Compares what is sent with a token: in constant time, and not sooner than a second after a wrong one."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def holds(self, sent: str, token: str) -> bool:
        """Whether `sent` is the token, and does not come too soon after a wrong one."""
        now = time.monotonic()
        if now < self._not_before:
            return False
        if not hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (sent, token))):
            self._not_before = now + _PAUSE
            return False
        return True


class Sessions:
    """The open sessions of one process. Times are monotonic."""

    def __init__(self, token: str) -> None:
        self._token, self._guard = token, Guard()
        self._ends: dict[str, float] = {}
        self._secret = secrets.token_bytes(32)

    def open(self, token: str) -> str | None:
        """A new session's cookie value, or None if the token is wrong or comes too soon after a wrong one."""
        if not self.holds(token):
            return None
        now = time.monotonic()
        self._ends = {name: end for name, end in self._ends.items() if end > now}
        session = secrets.token_urlsafe(32)
        self._ends[session] = now + _LIFETIME
        return session

    def holds(self, token: str) -> bool:
        """Whether this is the token, and does not come too soon after a wrong one."""
        return self._guard.holds(token, self._token)

    def form(self, session: str | None) -> str:
        """What every form of a session's pages brings along, so that no other site's page can send one."""
        return hmac.new(self._secret, (session or "").encode(), "sha256").hexdigest()

    def is_form(self, session: str | None, sent: str) -> bool:
        """Whether a form came from this session's own pages."""
        return self.known(session) and hmac.compare_digest(self.form(session).encode(), sent.encode())

    def known(self, session: str | None) -> bool:
        """Whether the cookie value belongs to an open session."""
        return session is not None and self._ends.get(session, 0.0) > time.monotonic()

    def close(self, session: str | None) -> None:
        """End a session."""
        self._ends.pop(session or "", None)
