"""The result of a check as one HTML page that needs no network. It shows images: it stays at the site."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from mmmed.check.result import CheckResult
from mmmed.data.image import read_image
from mmmed.data.volume import read_volume
from mmmed.errors import DataError

_THUMBNAIL = 160
_VOLUMES = (".nii", ".nii.gz")
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data set check</title>
<style>
 :root { color-scheme: light dark; --ink: #222; --soft: #555; --line: #e4e4e4; --paper: #fff; --bar: #4472a8;
 --good: #176b37; --bad: #a11; --bad-paper: #fbe9e9; --warn-paper: #fff4d6 }
 @media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a8a8a8; --line: #3a3a3a; --paper: #171717;
 --bar: #7ba7d9; --good: #6fcf97; --bad: #ff8f8f; --bad-paper: #3a1d1d; --warn-paper: #38301a } }
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem;
 color: var(--ink); background: var(--paper) }
 h2 { margin: 2rem 0 .5rem; font-size: 1.2rem } table { border-collapse: collapse; width: 100% }
 td { border-bottom: 1px solid var(--line); padding: .25rem .5rem; vertical-align: top; overflow-wrap: anywhere }
 td:first-child { width: 36%; color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) }
 p.bad, .warn { padding: .5rem .75rem; margin: .5rem 0 } p.bad { background: var(--bad-paper) }
 .warn { background: var(--warn-paper) }
 .plots, .images { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .75rem }
 figure { margin: 0; font-size: 12px; color: var(--soft) } .images figure { width: 150px }
 .images img { width: 150px; height: 150px; object-fit: contain; background: #000; display: block }
 .plots figcaption { max-width: 280px } .odd figcaption { color: var(--bad) }
 text { font: 10px sans-serif; fill: var(--soft) } rect { fill: var(--bar) } line { stroke: var(--soft) }
</style>
<h1>Data set check: <span class="{{ 'good' if result.trainable else 'bad' }}">
{{ 'trainable' if result.trainable else 'not trainable' }}</span></h1>
<p>This page shows images of the site's patients. It stays at the site. Counts are rounded.</p>
{% for problem in result.problems %}<p class="bad">{{ problem }}</p>{% endfor %}
{% for warning in result.warnings %}<p class="warn">{{ warning }}</p>{% endfor %}
{% macro draw(plot) %}
<figure><figcaption>{{ plot.title }}</figcaption>
{% if plot.histogram %}
{% set width = 272 / (plot.bars | length) %}{% set top = plot.bars | map(attribute=1) | max or 1 %}
<svg width="280" height="124" role="img" aria-label="{{ plot.title }}">
{% for name, share in plot.bars %}
{% set x = 4 + loop.index0 * width %}{% set height = 96 * share / top %}
<rect x="{{ x + 1 }}" y="{{ 104 - height }}" width="{{ width - 2 }}" height="{{ height }}"/>
{% if loop.index0 % 4 == 0 %}<text x="{{ x + 1 }}" y="118">{{ name }}</text>{% endif %}
{% endfor %}
<line x1="4" x2="276" y1="104" y2="104"/></svg>
{% else %}
<svg width="430" height="{{ 16 * (plot.bars | length) + 4 }}" role="img" aria-label="{{ plot.title }}">
{% for name, share in plot.bars %}
{% set y = 16 * loop.index0 %}
<text x="0" y="{{ y + 12 }}">{{ name[:24] }}</text>
<rect x="150" y="{{ y + 2 }}" width="{{ 230 * share }}" height="12"/>
<text x="{{ 154 + 230 * share }}" y="{{ y + 12 }}">{{ "%.0f" | format(100 * share) }} %</text>
{% endfor %}
</svg>
{% endif %}
</figure>
{% endmacro %}
{% for section, facts in result.facts.items() %}
<h2>{{ section }}</h2><table>
{% for name, value in facts %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% if result.plots.get(section) %}<div class="plots">{% for plot in result.plots[section] %}{{ draw(plot) }}{% endfor %}</div>{% endif %}
{% endfor %}
{% if thumbnails %}<h2>Pictures, outliers first; of volumes the middle slice, the patient's right on the left</h2>
<div class="images">
{% for image, why in thumbnails %}<figure{% if why %} class="odd"{% endif %}><img alt="" src="data:image/png;base64,{{ image }}"><figcaption>{{ why }}</figcaption></figure>
{% endfor %}
</div>{% endif %}
</html>
""")  # noqa: E501


def write_page(result: CheckResult, path: Path) -> None:
    """Write the page, readable by its owner alone. Raises `DataError` if it cannot be written."""
    thumbnails = [(text, one.why) for one in result.examples if (text := _thumbnail(one.path))]
    try:
        path.touch(mode=0o600)
        path.write_text(_PAGE.render(result=result, thumbnails=thumbnails), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error.strerror})") from error


def _thumbnail(path: Path) -> str:
    """PNG in base64 of an image, or of the middle slice of a volume; "" if it cannot be read."""
    try:
        pixels = _middle_slice(path) if path.name.endswith(_VOLUMES) else read_image(path, channels=1)[0]
    except DataError:
        return ""
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _middle_slice(path: Path) -> np.ndarray:
    """(side, side) float32 in [0, 1]: anterior at the top, the patient's right on the left."""
    volume = read_volume(path, size=_THUMBNAIL // 2, spacing=0.0, window=())[0]  # superior, anterior, right
    return volume[len(volume) // 2, ::-1, ::-1]
