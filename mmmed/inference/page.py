"""An explanation as one HTML page that needs no network, for a clinician. It holds the patient's note and picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mmmed.inference.explain import Detail
from mmmed.inference.pictures import inline, pairs
from mmmed.inference.prediction import Prediction
from mmmed.tasks.base import Target

_MOST_LISTED = 6  # words that count most
_FAINT = 0.2  # of the strongest word: below it a word is not marked
_METHOD = {
    "words": "Each word of the note was left out in turn.",
    "columns": "Each value was left out in turn, as if it had not been measured.",
    "curve": "Each short stretch of a recording was faded into its mean.",
    "map": "Each place of a picture was faded to black.",
    "views": "Each place of each picture was faded to black.",
    "clip": "Each place of a few frames at a time was faded to black.",
}
_PLOT = (640, 150)  # of a curve, in its own units


@dataclass(frozen=True)
class _Word:
    before: str  # white space
    text: str
    after: str
    sign: str  # "up", "down" or "" where it is faint
    strength: float  # 0 to 1


@dataclass(frozen=True)
class _Curve:
    plain: str  # points of polylines
    share: str
    zero: float
    seconds: float
    strongest: float  # seconds


def draw_page(found: Prediction, target: Target, number: int, lines: list[str]) -> str:
    """The page.

    Args:
        found: with shares and details.
        target: the task.
        number: of the prediction's numbers the one that is explained.
        lines: sentences on the model: which run, how private, how far its probabilities can be taken at their word.
    """
    name = target.names[number]
    values = [float(value) for value in found.values.values()]
    whole, nothing = values[number], found.nothing[name]
    shares = {modality: one[name] for modality, one in found.shares.items()}
    return (
        _environment()
        .get_template("explanation.html")
        .render(
            said=target.said(number, whole),
            every=[target.said(k, value) for k, value in enumerate(values)],
            nothing=target.shown(number, nothing),
            whole=target.shown(number, whole),
            read=" and ".join(filter(None, (", ".join(found.read[:-1]), found.read[-1]))),
            missing=found.missing,
            shares=[
                (
                    modality,
                    target.moved(number, share),
                    target.shown(number, found.without[modality][name]),
                    share,
                )
                for modality, share in shares.items()
            ],
            largest=max((abs(share) for share in shares.values()), default=0) or 1.0,
            parts=[_part(modality, one, number, target) for modality, one in found.details.items()],
            lines=lines,
            method=" ".join(sorted({_METHOD[one.shown] for one in found.details.values()})),
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mmmed.inference"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip


def _part(modality: str, detail: Detail, number: int, target: Target) -> dict[str, object]:
    shares = detail.shares[number]
    order = [int(i) for i in np.argsort(-np.abs(shares))[:_MOST_LISTED]] if detail.names else []
    return {
        "modality": modality,
        "shown": detail.shown,
        "pairs": [(one.view, inline(one.plain), inline(one.heat)) for one in pairs(detail, number)],
        "size": " × ".join(map(str, detail.plain.shape)) if detail.plain is not None else "",
        "words": _words(detail.names, shares) if detail.shown == "words" else [],
        "rest": detail.rest,
        "most": [
            (detail.names[i].strip(), target.moved(number, float(shares[i])), shares[i] >= 0) for i in order
        ],
        "curve": _curve(detail, number) if detail.shown == "curve" else None,
    }


def _words(names: tuple[str, ...], shares: np.ndarray) -> list[_Word]:
    most = float(np.abs(shares).max(initial=0)) or 1.0
    words = []
    for text, share in zip(names, (shares / most).tolist(), strict=True):
        sign = "" if abs(share) < _FAINT else "up" if share > 0 else "down"
        word = text.strip()
        start = text.index(word)
        words.append(_Word(text[:start], word, text[start + len(word) :], sign, round(abs(share), 2)))
    return words


def _curve(detail: Detail, number: int) -> _Curve:
    if detail.map is None or detail.plain is None:
        raise ValueError("a curve needs its places")
    width, height = _PLOT
    share = detail.map[number]
    most = float(np.abs(share).max()) or 1.0
    low, high = float(detail.plain.min()), float(detail.plain.max())

    def points(values: np.ndarray, top: float, tall: float) -> str:
        """Values in [0, 1] from left to right, at most a point a unit of the plot."""
        picked = np.linspace(0, len(values) - 1, min(len(values), width)).astype(int)
        across = np.linspace(0, width, len(picked))
        return " ".join(
            f"{x:.1f},{top + tall * (1 - values[i]):.1f}" for x, i in zip(across, picked, strict=True)
        )

    return _Curve(
        points((detail.plain - low) / ((high - low) or 1.0), 5, 0.4 * height),
        points((share / most + 1) / 2, 0.5 * height, 0.5 * height - 5),
        0.75 * height - 2.5,
        len(detail.plain) * detail.step,
        float(np.abs(share).argmax()) * detail.step,
    )
