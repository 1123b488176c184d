"""What a human looks at before an image is used in which text was seen: it before and after, and pages of these pairs.

Pictures "before" show identifiers. They lie in the review folder alone, which only its owner can open.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from mmmed.data.image_approvals import review_folder
from mmmed.deidentify.pixels import Box, Seen, mask
from mmmed.errors import DataError
from mmmed.files import replacing

PAGE = "index.html"
_SIDE = 768  # pixels of the longer side of each of a pair
_GAP = 8
_PAIRS_A_PAGE = 60
_MASKED, _LEFT = (255, 64, 64), (255, 190, 0)  # colours of outlines


def masked_picture(dataset: Path, item: str) -> Path:
    """Path of a masked image that waits for approval."""
    return review_folder(dataset) / "masked" / f"{item}.png"


def pair_picture(dataset: Path, item: str) -> Path:
    """Path of the picture that shows an image before and after masking."""
    return review_folder(dataset) / "pairs" / f"{item}.jpg"


def open_review(dataset: Path) -> None:
    """Make the folder of the pictures, which only its owner can enter. Raises `DataError` if that fails."""
    folder = review_folder(dataset)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        for name in ("masked", "pairs"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be made ({error.strerror}); images held for review wait there, beside the data set. "
            "Allow writing, or choose another --out"
        ) from error


def write_pair(dataset: Path, item: str, before: np.ndarray, seen: Seen) -> None:
    """Draw an image before and after its text was masked as one JPEG in the review folder: boxes outlined in red, side
    markers, which stay, in amber.

    Args:
        dataset: folder of the data set.
        item: the image's name.
        before: float32 (C, H, W) in [0, 1], before masking.
        seen: text and side markers in it; nothing if it is one of the sample.

    Raises:
        DataError: the review folder cannot be made.
    """
    open_review(dataset)
    left, right = (_outlined(pixels, seen) for pixels in (before, mask(before, seen.boxes)))
    pair = Image.new("RGB", (left.width + _GAP + right.width, left.height), (255, 255, 255))
    pair.paste(left, (0, 0))
    pair.paste(right, (left.width + _GAP, 0))
    with replacing(pair_picture(dataset, item), mode=0o600) as partial:
        pair.save(partial, "JPEG")


def _outlined(pixels: np.ndarray, seen: Seen) -> Image.Image:
    values = (pixels.clip(0, 1) * 255).round().astype(np.uint8)
    image = Image.fromarray(np.moveaxis(np.broadcast_to(values, (3, *values.shape[1:])), 0, -1))
    scale = min(1, _SIDE / max(image.size))
    image.thumbnail((_SIDE, _SIDE))
    canvas = ImageDraw.Draw(image)
    for boxes, colour in ((seen.boxes, _MASKED), (seen.markers, _LEFT)):
        for box in boxes:
            _outline(canvas, box, scale, colour)
    return image


def _outline(canvas: ImageDraw.ImageDraw, box: Box, scale: float, colour: tuple[int, int, int]) -> None:
    """A little outside, so that what is masked can be seen whole."""
    left, top, right, bottom = (side * scale for side in box)
    canvas.rectangle((left - 2, top - 2, right + 1, bottom + 1), outline=colour, width=2)


def waiting_pages(dataset: Path, items: Sequence[str]) -> Path:
    """Write HTML pages of all images that wait for approval; returns the first, `PAGE`."""
    shown = []
    for item in items:
        picture = pair_picture(dataset, item)
        place = f"pairs/{picture.name}" if picture.is_file() else f"masked/{item}.png"
        shown.append(Shown(item, place, f"masked/{item}.png"))
    command = f"mmmed site approve-images {shlex.quote(str(dataset.resolve()))}"
    return _write_pages(review_folder(dataset), shown, command)


def copied_pages(out: Path, copies: Mapping[str, str]) -> Path:
    """Write HTML pages of masked copies (name of a pair -> path of the copy below ``out``); delete other pairs."""
    folder = review_folder(out)
    for pair in (folder / "pairs").iterdir():
        if pair.stem not in copies:
            pair.unlink()
    shown = [Shown(copy, f"pairs/{item}.jpg", f"pairs/{item}.jpg") for item, copy in sorted(copies.items())]
    return _write_pages(folder, shown, "")


@dataclass(frozen=True)
class Shown:
    """One pair on a page: its label, its picture, and the target of its link, as paths below the review folder."""

    label: str
    picture: str
    link: str


def _write_pages(folder: Path, shown: Sequence[Shown], command: str) -> Path:
    """The pages load nothing but the pictures beside them."""
    parts = [shown[start : start + _PAIRS_A_PAGE] for start in range(0, len(shown), _PAIRS_A_PAGE)]
    names = [PAGE, *(f"page-{number}.html" for number in range(2, len(parts) + 1))]
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        page = _PAGE.render(shown=part, names=names, number=number, total=len(shown), command=command)
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(page, encoding="utf-8")
    for stale in folder.glob("page-*.html"):
        if stale.name not in names:
            stale.unlink()
    return folder / PAGE


def close_review(dataset: Path) -> None:
    """Remove the review pages, and the review folder if nothing else lies in it."""
    folder = review_folder(dataset)
    if not folder.is_dir():
        return
    for page in (folder / PAGE, *folder.glob("page-*.html")):
        page.unlink(missing_ok=True)
    for empty in (folder / "masked", folder / "pairs", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Images held for review</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 104rem; margin: 1.5rem auto; padding: 0 1rem; color: #222 }
 h1 { font-size: 1.4rem; margin: 0 } p { max-width: 60rem } .warn { background: #fbe9e9; color: #a11; padding: .5rem .75rem }
 pre { background: #f4f4f4; padding: .5rem .75rem; white-space: pre-wrap; overflow-wrap: anywhere; user-select: all }
 nav a, nav b { display: inline-block; padding: .1rem .5rem; margin: .1rem; border: 1px solid #ccc; text-decoration: none }
 main { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1rem; margin: 1rem 0 }
 figure { margin: 0; border: 1px solid #ddd; padding: .5rem; display: flex; flex-direction: column; justify-content: end }
 figure a { background: #333; flex: 1; display: flex; align-items: center } img { width: 100%; display: block }
 code { user-select: all; font-size: 14px }
</style></head><body>
{% macro pages() %}
{% if names | length > 1 %}<nav>{% for name in names %}
{% if loop.index0 == number %}<b>{{ loop.index }}</b>{% else %}<a href="{{ name }}">{{ loop.index }}</a>{% endif %}
{% endfor %}</nav>{% endif %}
{% endmacro %}
<h1>{{ total }} {{ "image" if command else "copied image" }}{{ "s" if total > 1 }} held for review
{{- " to approve" if command else " to look at" }}</h1>
{% if command %}
<p class="warn">This page shows identifiers of patients. It stays on this machine; each pair is deleted when it is
decided on.</p>
<p>Left the image as it came, right as it would be trained on; what was masked is outlined in red, a side marker that
was left in amber. Among them is a sample of images in which nothing was seen. A click shows the right one in full size.
Of a clip each point is shown as bright as it gets in any frame, and a click plays it.
Reject an image in which anything that tells who the patient is can still be read, or whose anatomy is covered. Until it is approved an image is in no data set; what is rejected stays out.</p>
<pre>{{ command }} ITEM ITEM ... --reject ITEM --reject ITEM ...</pre>
<p>When you have looked at every page: all that are left, but for what you reject.</p>
<pre>{{ command }} --all --reject ITEM ...</pre>
{% else %}
<p class="warn">This page shows identifiers of patients. It stays on this machine: delete its folder when you have looked at
every page.</p>
<p>Left the image as it came, right its copy; what was masked is outlined in red, a side marker that was left in amber. Of a clip each point is shown as bright as
it gets in any frame. Delete the copies in which anything that tells who the patient is can still be read.</p>
{% endif %}
{{ pages() }}
<main>
{% for one in shown %}
<figure><a href="{{ one.link }}"><img alt="before and after" loading="lazy" src="{{ one.picture }}"></a>
<figcaption><code>{{ one.label }}</code></figcaption></figure>
{% endfor %}
</main>
{% if command %}
<details><summary>Approve the {{ shown | length }} images of this page</summary>
<pre>{{ command }}{% for one in shown %} {{ one.label }}{% endfor %}</pre></details>
{% endif %}
{{ pages() }}
</body></html>
""")  # noqa: E501
