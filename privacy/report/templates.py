"""The report's HTML templates, escaped by default, and strict about what they are given."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from privacy.report.rounding import percent, run_cell, shown


def render(name: str, **values: object) -> str:
    """A page from a template of `privacy/templates`."""
    return _environment().get_template(name).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("privacy", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"epsilon": _epsilon, "percent": percent, "run": run_cell}
    return made


def _epsilon(value: float | str) -> str:
    return value if isinstance(value, str) else shown(value)
