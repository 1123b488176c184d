"""The result of a check as one HTML page that needs no network. It shows images: it stays at the site."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from mmmed.data.check.gate import CheckResult
from mmmed.data.image import read_image
from mmmed.errors import DataError

_THUMBNAIL = 160
_PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Data set check</title>
<style>
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
 table { border-collapse: collapse; width: 100% } td { border-bottom: 1px solid #ddd; padding: .25rem .5rem }
 td:first-child { width: 40% } .good { color: #176b37 } .bad { color: #a11 }
 .warn { background: #fff4d6; padding: .5rem }
 .bar { display: inline-block; height: .7rem; background: #4472a8; vertical-align: middle; margin-right: .5rem }
 figure { display: inline-block; margin: .2rem } img { max-width: 160px; max-height: 160px; display: block }
</style>
<h1>Data set check: <span class="{{ 'good' if result.trainable else 'bad' }}">
{{ 'trainable' if result.trainable else 'not trainable' }}</span></h1>
<p>This page shows images of the site's patients. It stays at the site. Counts are rounded.</p>
{% for problem in result.problems %}<p class="bad">{{ problem }}</p>{% endfor %}
{% for warning in result.warnings %}<p class="warn">{{ warning }}</p>{% endfor %}
{% for section, facts in result.facts.items() %}<h2>{{ section }}</h2><table>
{% for name, value in facts %}<tr><td>{{ name }}</td><td>
{% set share = value.split('%')[0] %}{% if '%' in value and share.replace('.', '').isdigit() %}
<span class="bar" style="width: {{ share }}%; max-width: 50%"></span>{% endif %}{{ value }}</td></tr>{% endfor %}
</table>{% endfor %}
{% if thumbnails %}<h2>Images, outliers first</h2>
{% for image in thumbnails %}<figure><img alt="" src="data:image/png;base64,{{ image }}"></figure>
{% endfor %}{% endif %}
</html>
""")


def write_page(result: CheckResult, path: Path) -> None:
    """Write the page, readable by its owner alone. Raises `DataError` if it cannot be written."""
    thumbnails = [text for example in result.examples if (text := _thumbnail(example))]
    try:
        path.touch(mode=0o600)
        path.write_text(_PAGE.render(result=result, thumbnails=thumbnails), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error.strerror})") from error


def _thumbnail(path: Path) -> str:
    try:
        pixels = read_image(path, channels=1)[0]
    except DataError:
        return ""
    image = Image.fromarray((pixels * 255).astype(np.uint8))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
