"""Bytes that somebody wrote as text, in an encoding that they may not state.

Names of a patient are removed from notes by comparison, so a text that was decoded wrongly keeps them. What cannot be
decoded for sure is refused with `Undecodable`.
"""

from __future__ import annotations

import codecs
import re

LOST = "\ufffd"  # stands for a character that was not decoded
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_LATIN = (
    "cp1252",
    "cp1250",
    "iso8859_2",
    "cp850",
    "mac_roman",
)  # of Western and Central European systems, of which the first is far the most frequent
_ISO_2022 = re.compile(rb"\x1b(?:\$[@AB]|\([BJI]|\$\([CD]|\$\)C)")
# A letter in the middle of a word that no language puts there: the trace of a wrong code page.
_IMPLAUSIBLE = re.compile(
    r"(?<=[^\W\d_])[^\w\s'’´`.,;:!?()\[\]{}/\\|\"“”„«»‹›–—…&+*=<>#%@^~$_\u00ad\u00a0-](?=[^\W\d_])|(?<=[a-zß-öø-ÿ])[„“”‘‚](?=[a-zß-öø-ÿ])"
    r"|(?<=[A-Za-zß-öø-ÿ])[À-ÖØ-Þ](?=[a-zß-öø-ÿ])|(?<=[A-Za-zß-öø-ÿ])[ŠŽŸ](?=[a-zß-öø-ÿ])|(?<=\w)[¹²³¼½¾ªº](?=[a-z])|(?<![\w.,;:)(])[¢-´¶-¾÷×](?=[a-z]{2})"
    r"|[\x80-\x9f]"
)
_AMBIGUOUS = re.compile(
    rb"[\xd0\xde\xf0\xfe]"
)  # Turkish, Icelandic, Romanian: the code pages differ in these alone
_FEW = 5  # letters beyond ASCII that tell nothing of the script
_DENSE = 0.5  # share of letters beyond ASCII from which a text is in no Latin script


class Undecodable(ValueError):
    """A text whose characters cannot be told; the message says how to mend it."""


def decode(content: bytes, charset: str = "", *, replace: bool = False) -> str:
    """The text that bytes hold.

    Args:
        content: bytes, of one encoding or, by lines, of several.
        charset: what the source says its encoding is; "" if nothing. Bytes that contradict it are decoded without.
        replace: mark what cannot be told by U+FFFD, line by line, instead of refusing all.

    Raises:
        Undecodable: no encoding fits, or several would.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _strict(content, encoding)
    if charset and (text := _as_stated(content, charset)) is not None:
        return text
    if _ISO_2022.search(content):
        return _strict(content, "iso2022_kr" if b"\x1b$)C" in content else "iso2022_jp_2")
    if content[:4096].count(0) > len(content[:4096]) // 4:  # UTF-16 without its mark
        even, odd = content[:4096:2].count(0), content[1:4096:2].count(0)
        return _strict(content, "utf-16-be" if even > odd else "utf-16-le")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _by_lines(content, replace)


def _strict(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(f"is damaged {encoding} text; export it again as UTF-8") from error


def _as_stated(content: bytes, charset: str) -> str | None:
    """The text by the stated encoding; None if there is none of that name or the bytes contradict it."""
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
        if name in ("iso8859-1", "ascii"):  # what calls itself so is UTF-8 or Windows-1252 as often
            return None if any(byte > 0x7F for byte in content) and is_utf8(content) else latin1(content)
        return content.decode(name)
    except (LookupError, UnicodeDecodeError):
        return None


def latin1(content: bytes) -> str:
    """Text in what calls itself Latin 1, which is Windows-1252 as far as that goes."""
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def is_utf8(content: bytes) -> bool:
    """Whether bytes are UTF-8 throughout."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _by_lines(content: bytes, replace: bool) -> str:
    """Lines that are UTF-8 as such, strays in them from Windows-1252; all others in one encoding."""
    lines = content.split(b"\n")
    others = [line for line in lines if not is_utf8(line) and not _mostly_utf8(line)]
    errors = "strict"
    try:
        encoding = guess(b"\n".join(others)) if others else ""
    except Undecodable:
        if not replace:
            raise
        encoding, errors = "utf-8", "replace"
    return "\n".join(
        line.decode("utf-8")
        if is_utf8(line)
        else line.decode("utf-8", errors=_STRAY)
        if _mostly_utf8(line)
        else line.decode(encoding, errors)
        for line in lines
    )


_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def _mostly_utf8(line: bytes) -> bool:
    """Whether more characters of a line are UTF-8 than there are bytes beside them that are not."""
    strays = sum(byte > 0x7F for byte in _MULTIBYTE.sub(b"", line))
    return len(_MULTIBYTE.findall(line)) > strays


def _stray(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    byte = error.object[error.start : error.start + 1]
    return byte.decode("cp1252", errors="replace"), error.start + 1


_STRAY = "mmmed-stray"
codecs.register_error(_STRAY, _stray)


def guess(content: bytes) -> str:
    """The name of the encoding of bytes that are no UTF-8. Raises `Undecodable` if none is plausible."""
    high = sum(byte > 0x7F for byte in content)
    letters = high + sum(chr(byte).isalpha() for byte in content if byte < 0x80)
    if (high <= _DENSE * letters or high <= _FEW) and not _AMBIGUOUS.search(content):
        fit: dict[str, str] = {}
        for encoding in _LATIN:
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if not _IMPLAUSIBLE.search(text):
                fit.setdefault(text, encoding)
        if "cp1252" in fit.values() or len(fit) == 1:
            return next(iter(fit.values()))
    # Detectors take one East Asian or Cyrillic encoding for another in short texts, and a name in it would stay.
    raise Undecodable(
        "is in an encoding that cannot be told: state encoding in [[tables]], or save it as UTF-8"
    )
