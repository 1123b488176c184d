"""Films with known print, drawn on the spot: what a text detector must find on radiographs, photographs and slices.

Two sets: settings are chosen on "development"; "apart" has other seeds, fonts, phrases and backgrounds. Fonts are those
of the machine: scripts that none of them has are left out and said to be (Debian: fonts-noto-cjk, fonts-noto-core,
fonts-dancingscript, fonts-breip, fonts-comic-neue).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mmmed.data.image import read_image

Set = Literal["development", "apart"]
KINDS = ("plain", "tiny", "huge", "turned", "slanted", "script", "faint", "slice", "clean", "clean slice")

_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
_BY_HAND = ("dancing", "breip", "comic", "humor", "ecolier", "script", "hand")
_PHRASES: dict[Set, dict[str, tuple[str, ...]]] = {
    "development": {
        "latin": (
            "MUSTERFRAU, ERIKA", "Muster, Erika *12.08.1964", "ID 4471093", "Acc A13545918", "DOB 02/01/1930 F",
            "Klinikum Nord 03.04.2019 10:22", "Dr. H. Beispiel", "PATIENT: Erika Muster 4711", "Pat.-Nr. 0014629",
        ),
        "ko": ("홍길동 1964년 8월", "서울대학교병원 김영희", "환자번호 4471093"),
        "ru": ("ИВАНОВА МАРИЯ", "Петров Иван 12.08.1964", "Городская больница 4"),
        "ja": ("山田太郎 昭和39年", "東京中央病院", "やまだ たろう"),
        "zh": ("王小明 男 1964", "北京协和医院", "病历号 4471093"),
    },
    "apart": {
        "latin": (
            "Doe, Jane Q", "JANE DOE 1957-11-30", "MRN: 88-20417-B", "St. Anne Hospital", "O'HARA^SEAN^^",
            "AP PORT 06:15", "Schmidt-Lobrecht, Karl", "geb. 30.11.57 m", "Universitätsklinik Ost",
            "ref. Dr. Vandenberg", "No. 000918273",
        ),
        "ko": ("이순신 1957.11.30", "부산의료원 박철수", "최민지 님"),
        "ru": ("Сидоренко Ольга", "КУЗНЕЦОВ А. В. 1957", "Областной госпиталь"),
        "ja": ("鈴木花子 様", "大阪市立病院 1957", "さとう はなこ"),
        "zh": ("李丽华 女 67岁", "上海市第一人民医院", "姓名 张伟"),
    },
}  # fmt: skip
_SEEDS: dict[Set, int] = {"development": 1, "apart": 2}


class Film(NamedTuple):
    """A film and its print.

    Attributes:
        pixels: float32 (1, H, W) in [0, 1].
        lines: of every line of print, bool (H, W): its ink.
        kind: one of `KINDS`.
        about: for a person, which font, size and turn.
    """

    pixels: np.ndarray
    lines: tuple[np.ndarray, ...]
    kind: str
    about: str


@dataclass(frozen=True)
class _Print:
    text: str
    font: str
    size: int
    turn: float = 0.0
    shear: float = 0.0


def films(which: Set, count: int, seed: int = 0) -> Iterator[Film]:
    """``count`` films of a set, its kinds in turn."""
    kinds = [one for one in KINDS if one != "script" or scripts(which)]
    for number in range(count):
        draw = np.random.default_rng((_SEEDS[which], seed, number))
        yield _film(which, kinds[number % len(kinds)], draw)


def scripts(which: Set) -> tuple[str, ...]:
    """Scripts other than Latin for which this machine has fonts."""
    return tuple(one for one in _PHRASES[which] if one != "latin" and _fonts(which, one))


def _film(which: Set, kind: str, draw: np.random.Generator) -> Film:
    small = kind.endswith("slice")
    pixels = _background(which, small, kind == "tiny", draw)
    lines: list[np.ndarray] = []
    about = []
    for _ in range(
        0 if kind.startswith("clean") else int(draw.integers(1, 2 if small or kind == "huge" else 4))
    ):
        one = _some_print(which, kind, draw)
        ink = _ink(one, pixels.shape, lines, draw)
        if ink is None:
            continue
        contrast = draw.uniform(0.18, 0.35) if kind == "faint" else draw.uniform(0.6, 1.0)
        around = pixels[ink > 0.3].mean()
        value = around - contrast if around > 0.55 else around + contrast
        pixels += ink * (np.clip(value, 0, 1) - pixels)
        lines.append(ink > 0.3)
        about.append(f"{one.text!r} {Path(one.font).stem} {one.size} px {one.turn:.0f} degrees")
    return Film(
        pixels.clip(0, 1).astype(np.float32)[None], tuple(lines), kind, f"{pixels.shape} " + "; ".join(about)
    )


def _some_print(which: Set, kind: str, draw: np.random.Generator) -> _Print:
    script = str(draw.choice(scripts(which))) if kind == "script" else "latin"
    text = str(draw.choice(_PHRASES[which][script]))
    font = str(draw.choice(_fonts(which, "hand" if kind == "slanted" else script)))
    size = int(
        draw.integers(
            *{"tiny": (8, 15), "huge": (130, 191), "slice": (9, 14), "faint": (20, 50)}.get(kind, (18, 61))
        )
    )
    if kind == "huge":
        text = text.split()[0][:8]
    if kind == "slice":
        text = text[:10]
    turn = float(draw.choice([45, 70, 90, 180, 270, -45, 110, 15])) if kind == "turned" else 0.0
    shear = float(draw.uniform(0.1, 0.5)) if kind == "slanted" else 0.0
    if kind == "slanted":
        turn = float(draw.uniform(-15, 15))
    return _Print(text, font, size, turn, shear)


def _ink(
    one: _Print, shape: tuple[int, ...], others: Sequence[np.ndarray], draw: np.random.Generator
) -> np.ndarray | None:
    """Ink in [0, 1] (H, W), somewhere on the film where no other print is; None if it does not fit."""
    font = ImageFont.truetype(one.font, one.size)
    left, top, right, bottom = font.getbbox(one.text)
    image = Image.new("L", (int(right - left) + 8, int(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), one.text, fill=255, font=font)
    if one.shear:
        wide = image.width + int(one.shear * image.height)
        image = image.transform(
            (wide, image.height), Image.Transform.AFFINE, (1, one.shear, -one.shear * image.height, 0, 1, 0),
            Image.Resampling.BICUBIC,
        )  # fmt: skip
    if one.turn:
        image = image.rotate(one.turn, Image.Resampling.BICUBIC, expand=True)
    height, width = image.height, image.width
    if height > shape[0] or width > shape[1]:
        return None
    for _ in range(20):
        y, x = int(draw.integers(shape[0] - height + 1)), int(draw.integers(shape[1] - width + 1))
        if not any(
            other[max(0, y - 8) : y + height + 8, max(0, x - 8) : x + width + 8].any() for other in others
        ):
            whole = np.zeros(shape, np.float32)
            whole[y : y + height, x : x + width] = np.asarray(image, np.float32) / 255
            return whole
    return None


@functools.cache
def _fonts(which: Set, script: str) -> tuple[str, ...]:
    """Fonts of this machine that have the letters, each family in one set alone where there are two or more."""
    sample = "Aqgä57" if script in ("latin", "hand") else _PHRASES[which][script][0][:3]
    found = [
        path
        for folder in _FONT_FOLDERS
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in (".ttf", ".otf", ".ttc") and _readable(path)
    ]
    by_hand = [path for path in found if any(word in path.name.lower() for word in _BY_HAND)]
    if script == "hand":
        found = by_hand or found
    elif script == "latin":
        found = [path for path in found if path not in by_hand]
    found = [path for path in found if _has(str(path), sample)]
    families = sorted(
        {_family(path) for path in found}, key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    own = families[::2] if which == "development" else families[1::2]
    return tuple(str(path) for path in found if _family(path) in (own or families))


def _readable(path: Path) -> bool:
    return not any(
        word in path.stem.lower() for word in ("symbol", "math", "music", "emoji", "braille", "mono")
    )


def _family(path: Path) -> str:
    return path.stem.split("-")[0].lower()


def _has(font: str, letters: str) -> bool:
    """Whether a font draws each letter other than it draws one that no font has."""
    try:
        opened = ImageFont.truetype(font, 24)
        none = bytes(opened.getmask("\U0010fffe"))
        return all(bytes(opened.getmask(one)) not in (none, b"") for one in letters)
    except (OSError, ValueError):
        return False


# ------------------------------------------------------------------ backgrounds


def _background(which: Set, small: bool, large: bool, draw: np.random.Generator) -> np.ndarray:
    """float64 (H, W) in [0, 1]: something like a chest, or a real film or photograph without print where there is."""
    if small:
        side = int(draw.choice([64, 96, 128, 192, 256]))
        return _slice((side, side), draw)
    shape = (int(draw.integers(1100, 1700)), int(draw.integers(1000, 1400)))
    if large:
        shape = (max(1200, shape[0]), max(1200, shape[1]))
    real = _real(which)
    if real and draw.random() < 0.5:
        picture = read_image(real[int(draw.integers(len(real)))], channels=1)[0]
        scale = max(shape) / max(picture.shape)
        film = np.asarray(ndimage.zoom(picture, scale, order=1), np.float64).clip(0, 1)
        return film + draw.normal(0, 0.008, film.shape)
    return _chest(shape, draw)


def _chest(shape: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    middle, film = shape[1] / max(shape) / 2, np.full(shape, draw.uniform(0.02, 0.15))
    film += draw.uniform(0.4, 0.6) * np.exp(-(((x - middle) / 0.38) ** 4) - ((y - 0.55) / 0.48) ** 4)
    for side in (-1, 1):
        lung = ((x - middle - side * 0.17) / 0.13) ** 2 + ((y - 0.45) / 0.3) ** 2
        film -= draw.uniform(0.2, 0.35) / (1 + np.exp((lung - 1) * 12))
        for rib in range(9):
            curve = (
                y - 0.17 - 0.065 * rib - draw.uniform(0.5, 1.1) * (x - middle) ** 2 * (1 if rib % 2 else 1.6)
            )
            inside = (np.abs(x - middle - side * 0.17) < 0.16) & (np.sign(x - middle) == side)
            film += draw.uniform(0.04, 0.1) * np.exp(-((curve / 0.009) ** 2)) * inside
    film += draw.uniform(0.15, 0.3) * np.exp(-(((x - middle) / 0.05) ** 2))  # spine
    film += draw.uniform(0.1, 0.25) * np.exp(-(((x - middle - 0.05) / 0.12) ** 2) - ((y - 0.62) / 0.13) ** 2)
    for _ in range(int(draw.integers(0, 4))):  # tubes and wires
        start, slope = draw.uniform(0.2, 0.8), draw.uniform(-0.6, 0.6)
        film += (
            0.25
            * np.exp(-(((x - start * 2 * middle - slope * (y - 0.3) ** 2) / 0.0022) ** 2))
            * (y < draw.uniform(0.4, 0.9))
        )
    if draw.random() < 0.5:  # collimation
        film[:, : int(shape[1] * draw.uniform(0, 0.08))] = 0.01
        film[int(shape[0] * draw.uniform(0.93, 1)) :] = 0.01
    film += ndimage.gaussian_filter(draw.normal(0, 1, shape), draw.uniform(0.6, 1.6)) * draw.uniform(
        0.01, 0.05
    )
    return film.clip(0, 1) if draw.random() < 0.8 else 1 - film.clip(0, 1)


def _slice(shape: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    film = np.full(shape, 0.02)
    film[(x / draw.uniform(0.6, 0.9)) ** 2 + (y / draw.uniform(0.5, 0.85)) ** 2 < 1] = draw.uniform(0.3, 0.6)
    for _ in range(int(draw.integers(3, 9))):
        cx, cy, rx, ry = *draw.uniform(-0.5, 0.5, 2), *draw.uniform(0.05, 0.3, 2)
        film[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = draw.uniform(0.05, 1)
    film = ndimage.gaussian_filter(film, draw.uniform(0.4, 1.0)) + draw.normal(
        0, draw.uniform(0.005, 0.04), shape
    )
    return film.clip(0, 1)


@functools.cache
def _real(which: Set) -> tuple[Path, ...]:
    """Real films and photographs below `MMMED_DATA` without print, half of them for each set."""
    from simulations.bench.deidentify import own_truth, read_truth

    table = own_truth()
    if table is None:
        return ()
    found = sorted(truth.file for truth in read_truth(table) if not truth.boxes)
    skin = table.parents[1] / "ham10000_4site" / "images"
    found += sorted(skin.rglob("*.jpg"))[:20]
    return tuple(found[::2] if which == "development" else found[1::2])
