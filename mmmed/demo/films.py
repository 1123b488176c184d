"""Procedural chest-film-like images: a patient's anatomy, one study's pose, one opacity, one scanner's look.

A film is a sum of soft-edged shapes in relative radiodensity (0 is air, 1 is dense bone or an unexposed
border), drawn in coordinates with x from -1 (image left, the patient's right) to 1 and y downwards. It
looks enough like a chest film to exercise a reader, a window and a small CNN; it is no model of a disease.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.floating[Any]]  # float32 all along: plain Python numbers do not widen it
Opacity = Literal["consolidation", "effusion", "nodule"]
OPACITIES: tuple[Opacity, ...] = ("consolidation", "effusion", "nodule")
_OPACITY_SHARES = (0.45, 0.35, 0.20)


@dataclass(frozen=True)
class Anatomy:
    """One patient's chest: the same in each of the patient's studies. Lengths in half film widths."""

    lung_x: float
    lung_width: float
    lung_height: float
    dome: tuple[float, float]  # height (y) of the right and left diaphragm
    heart: float
    mediastinum: float
    rib_count: float
    rib_phase: float
    rib_slope: float
    soft_tissue: float
    breast: float


@dataclass(frozen=True)
class Look:
    """What a scanner and its post-processing do to every film, whoever is on it."""

    shape: tuple[int, int]  # rows, columns
    gain: float = 1.0  # contrast around mid grey
    gamma: float = 1.0
    blur: float = 0.5  # standard deviation, pixels
    noise: float = 0.02  # standard deviation, share of full scale
    border: tuple[float, float] = (0.0, 0.0)  # least and most collimation, share of the film a side
    border_grey: float = 0.0


class Scene(NamedTuple):
    """What a film shows, before a scanner has taken it.

    Attributes:
        film: float32 [rows, columns] in 0..1, where brighter is denser.
        opacity: the kind that was drawn.
        place: float32 [rows, columns], the share of each pixel's air that the opacity replaces: where to see it.
    """

    film: Array
    opacity: Opacity
    place: Array


def draw_anatomy(rng: np.random.Generator, sex: str, age: int) -> Anatomy:
    """One patient's chest. Women get a breast shadow, older patients a wider heart and mediastinum."""
    old = (age - 60) / 100
    dome = 0.52 + rng.normal(0, 0.04)
    return Anatomy(
        lung_x=0.43 + rng.normal(0, 0.015),
        lung_width=0.36 + rng.normal(0, 0.02),
        lung_height=0.80 + rng.normal(0, 0.04),
        dome=(dome, dome + 0.05 + rng.normal(0, 0.015)),
        heart=0.34 + 0.1 * old + rng.normal(0, 0.025),
        mediastinum=0.12 + 0.03 * old + rng.normal(0, 0.012),
        rib_count=rng.uniform(4.2, 5.2),
        rib_phase=rng.uniform(0, 1),
        rib_slope=rng.uniform(0.25, 0.45),
        soft_tissue=0.62 + rng.normal(0, 0.025),
        breast=abs(rng.normal(0.05, 0.02)) if sex == "F" else 0.0,
    )


def draw_film(
    anatomy: Anatomy, rng: np.random.Generator, *, strength: float, shape: tuple[int, int]
) -> Scene:
    """One study of a patient: a new pose and breath, and an opacity.

    All that is random here is drawn independently of `strength`.

    Args:
        anatomy: the patient's chest (`draw_anatomy`).
        rng: public randomness.
        strength: of the opacity, 0 (unseen) to 1 (plain).
        shape: rows and columns of the film.
    """
    kind: Opacity = OPACITIES[int(rng.choice(len(OPACITIES), p=_OPACITY_SHARES))]
    x, y = _posed(rng, shape)
    lungs = [_lung(anatomy, x, y, side, rng.normal(0, 0.03)) for side in (0, 1)]
    filled = strength * _opacity(kind, rng, x, y, anatomy)
    density, place = _chest(anatomy, x, y, lungs, filled)
    return Scene(np.clip(density, 0, 1, out=density), kind, place)


def expose(film: Array, look: Look, rng: np.random.Generator) -> Array:
    """The film as a scanner shows it: collimation, blur, gain, gamma and noise. Same shape, 0..1."""
    image = gaussian_filter(film, look.blur) if look.blur > 0 else film
    image = np.clip((image - 0.5) * look.gain * rng.normal(1, 0.03) + 0.5 + rng.normal(0, 0.015), 0, 1)
    image = image**look.gamma
    image += rng.standard_normal(image.shape, dtype=np.float32) * look.noise
    top, bottom, left, right = (round(rng.uniform(*look.border) * n) for n in np.repeat(look.shape, 2))
    rows, columns = look.shape
    image[:top] = image[rows - bottom :] = look.border_grey
    image[:, :left] = image[:, columns - right :] = look.border_grey
    return np.clip(image, 0, 1, out=image)


@lru_cache(maxsize=8)
def _grid(shape: tuple[int, int]) -> tuple[Array, Array]:
    rows, columns = shape
    x = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, rows, dtype=np.float32)[:, None]
    return x, y


def _posed(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Pixel coordinates seen from the patient: a little shift, tilt and distance."""
    x, y = _grid(shape)
    tilt, zoom = rng.normal(0, 0.03), 1 + rng.normal(0, 0.03)
    dx, dy = rng.normal(0, 0.03, size=2)
    cos, sin = np.float32(zoom * np.cos(tilt)), np.float32(zoom * np.sin(tilt))
    return cos * x - sin * y + np.float32(dx), sin * x + cos * y + np.float32(dy)


def _inside(signed: Array, edge: float) -> Array:
    """Soft mask of ``signed > 0``; ``edge`` is the width of the transition."""
    return 0.5 * (1 + np.tanh(signed * (1 / edge)))


def _ellipse(x: Array, y: Array, cx: float, cy: float, rx: float, ry: float, edge: float = 0.25) -> Array:
    return _inside(1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2, edge)


def _lung(a: Anatomy, x: Array, y: Array, side: int, breath: float) -> Array:
    """Soft mask of the right (0) or left (1) lung field, cut by its diaphragm."""
    cx = a.lung_x * (1 if side else -1)
    field = _ellipse(x, y, cx, 0.02, a.lung_width, a.lung_height, 0.16)
    dome = a.dome[side] + breath + 0.5 * (x - cx * 0.85) ** 2
    return field * _inside(dome - y, 0.05)


def _chest(a: Anatomy, x: Array, y: Array, lungs: list[Array], filled: Array) -> tuple[Array, Array]:
    """Radiodensity of the whole chest, and what of each pixel's air is ``filled`` (0..1), as heart and vessels are."""
    torso = _ellipse(x, y, 0, 0.55, 1.02, 1.55, 0.12)
    heart = _ellipse(x + 0.25 * (y - 0.3), y - 0.15 * x, 0.13, 0.28, a.heart, 0.30, 0.2)
    vessels = _inside(a.mediastinum * (1 + 0.25 * y * y) - np.abs(x), 0.06)
    knob = _ellipse(x, y, 0.13, -0.28, 0.10, 0.10, 0.4)
    lung = lungs[0] + lungs[1]
    air = lung * (1 - 0.9 * heart) * (1 - vessels) * (1 - 0.7 * knob)

    density = torso * a.soft_tissue
    density += 0.10 * torso * _inside(y - 0.6, 0.2)  # abdomen
    density += 0.07 * (heart + vessels)
    density -= 0.45 * air * (1 - filled)
    density += 0.08 * _inside(0.075 - np.abs(x), 0.03) * (1 + 0.5 * np.cos(34 * y))
    density -= 0.12 * _inside(0.035 - np.abs(x), 0.03) * _inside(-0.25 - y, 0.1)  # trachea
    arc = (y + a.rib_slope * x * x - a.rib_slope * np.abs(x)) * a.rib_count + a.rib_phase
    density += 0.075 * np.maximum(np.cos(2 * np.pi * arc), 0) ** 2 * lung
    clavicle = np.abs(y + 0.68 + 0.18 * (np.abs(x) - 0.3))
    shaft = _inside(0.32 - np.abs(np.abs(x) - 0.44), 0.05)
    density += 0.12 * _inside(0.035 - clavicle, 0.02) * shaft
    if a.breast:
        density += a.breast * _ellipse(np.abs(x), y, 0.48, 0.32, 0.34, 0.28, 0.4)
    return density, air * filled


def _opacity(kind: Opacity, rng: np.random.Generator, x: Array, y: Array, a: Anatomy) -> Array:
    """Share of the lungs' air, 0..1 a pixel, that an opacity at full strength replaces."""
    side = int(rng.random() < 0.45)
    sign = 1 if side else -1
    if kind == "effusion":  # fluid fills the base, higher at the lateral wall (meniscus)
        level = a.dome[side] - rng.uniform(0.30, 0.50) - 0.5 * (np.abs(x) - a.lung_x)
        return _inside(y - level, 0.08) * (sign * x > 0)
    if kind == "consolidation":  # a patchy, ill-defined region
        cx, cy = sign * (a.lung_x + rng.uniform(-0.08, 0.08)), rng.uniform(-0.25, 0.3)
        rx, ry = rng.uniform(0.24, 0.34), rng.uniform(0.28, 0.40)
        fx, fy, phase = rng.uniform(-12, 12), rng.uniform(-12, 12), rng.uniform(0, 2 * np.pi, size=2)
        patchy = np.sin(fx * x + fy * y + phase[0]) * np.sin(fy * x - 1.6 * fx * y + phase[1])
        edge = _ellipse(x, y, cx, cy, rx, ry, 0.6)
        return (edge * (0.85 + 0.15 * patchy)).astype(np.float32)
    nodules = np.zeros_like(x + y)  # two to four round opacities, either lung
    for _ in range(int(rng.integers(2, 5))):
        sign = 1 if rng.random() < 0.5 else -1
        cx, cy = sign * (a.lung_x + rng.uniform(-0.15, 0.15)), rng.uniform(-0.4, 0.35)
        radius = rng.uniform(0.11, 0.16)
        nodules = np.maximum(nodules, _ellipse(x, y, cx, cy, radius, radius, 0.5))
    return nodules
