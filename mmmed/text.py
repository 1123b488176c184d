"""Text that another party chose, as it may be shown: on a terminal, in a log, in an error.

A terminal obeys what it is sent: an escape sequence moves the cursor, a line feed forges a line, a mark of direction
turns a name round. So all but printable characters are written as Python would, and one text is one piece of a line.
"""

from __future__ import annotations

MOST_SHOWN = 200  # characters of one text; the rest is counted


def shown(text: object, most: int = MOST_SHOWN) -> str:
    """One line of printable characters, with escapes (\\n, \\x1b, \\u202e) for all others, cut after `most`."""
    whole = str(text)
    cut = f"... ({len(whole)} characters)" if len(whole) > most else ""
    return escaped(whole[:most]) + cut


def escaped(text: str, keep: str = "") -> str:
    """`text` with escapes for what is not printable and not in `keep`."""
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii")
        for one in text
    )
