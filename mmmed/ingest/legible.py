"""Notes out of the layers in which systems wrap text: a name inside one would not be found there."""

from __future__ import annotations

import html
import re

from mmmed.decoding import Undecodable, is_utf8, latin1
from mmmed.ingest.records import plain

_LEFT = re.compile(
    r"[\x80-\x9f�]|\{\\rtf|\\X(?:[\dA-Fa-f]{2})+\\|(?<!\w)&(?:#\d{2,6}|#x[\da-fA-F]{2,5}|[A-Za-z]{2,8}uml);"
)
_RTF = re.compile(r"\s*\{\\rtf\d?")
_HEXADECIMAL = re.compile(r"(?:\\X(?:[\dA-Fa-f]{2})+\\)+")
_HL7 = {"\\F\\": "|", "\\S\\": "^", "\\T\\": "&", "\\R\\": "~", "\\E\\": "\\"}
_HL7_LAYOUT = re.compile(r"\\\.(br|sp|in|ti|ce|fi|nf|sk)[+-]?\d*\\|\\[HN]\\|\\[FSTRE]\\")
_ENTITY = re.compile(r"&(?:#\d{2,6}|#[xX][\da-fA-F]{2,5}|[A-Za-z]{2,8}\d?);")
_TAG = re.compile(
    r"(?i)</?(?:html|body|p|br|div|span|table|t[drh]|li|ul|b|i|u|font|strong|em|h\d|pre)\b[^<>]*>"
)
_UNICODE_ESCAPE = re.compile(r"\\u([\da-fA-F]{4})")
_QUOTED = re.compile(r"(?:=(?:C[2-9A-F]|D[\dA-F]|E[\dA-F])(?:=[89AB][\dA-F])+)")
_TWICE = re.compile(r"[ÂÃÄÅÆÐÑÎÏà-ï][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f", " "))


def legible(text: str) -> str:
    """A note without the layers in which systems wrap text: RTF, HL7 v2 escapes, HTML, text that was encoded twice.

    Raises `Undecodable` if some of it is left.
    """
    if _RTF.match(text):
        text = _rtf(text)
    text = _HEXADECIMAL.sub(lambda found: _bytes_of(found[0]), text)
    text = _HL7_LAYOUT.sub(lambda found: "\n" if found[1] else _HL7.get(found[0], ""), text)
    text = _UNICODE_ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
    text = _QUOTED.sub(
        lambda found: bytes.fromhex(found[0].replace("=", "")).decode("utf-8", "replace"), text
    )
    if _TAG.search(text):
        text = plain(text)
    for _ in range(2):  # &amp;uuml; is escaped twice
        if _ENTITY.search(text):
            text = html.unescape(text)
    text = _TWICE.sub(lambda found: _once(found[0]), text)
    text = _INVISIBLE.sub("", text).translate(_SPACES)
    if any("\x80" <= letter <= "\x9f" for letter in text):
        text = "".join(
            latin1(letter.encode("latin-1")) if "\x80" <= letter <= "\x9f" else letter for letter in text
        )
    if found := _LEFT.search(text):
        kind = "characters that were lost" if found[0] == "�" else "escapes that could not be read"
        raise Undecodable(f"note with {kind}: export it again as plain UTF-8 text")
    return text


def _rtf(text: str) -> str:
    from striprtf.striprtf import rtf_to_text

    try:
        return str(rtf_to_text(text, encoding="cp1252", errors="strict"))
    except Exception as error:  # the reader raises whatever it stumbles over
        raise Undecodable("note in RTF that cannot be read: export it as plain text") from error


def _bytes_of(escapes: str) -> str:
    r"""The characters of HL7 escapes such as ``\X0D\\XFC\`` (HL7 v2.5 2.7.5)."""
    content = bytes.fromhex(escapes.replace("\\X", "").replace("\\", ""))
    return (
        (content.decode("utf-8") if is_utf8(content) else latin1(content))
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )


def _once(text: str) -> str:
    """Text that was UTF-8, was read as Windows-1252 and written again, as it had been."""
    content = b"".join(
        letter.encode("latin-1") if "\x80" <= letter <= "\xff" else letter.encode("cp1252", "replace")
        for letter in text
    )
    return content.decode("utf-8") if is_utf8(content) else text
