"""By what ids a data set's patients can be found again: in ``.ingest/people.json``, pseudonym -> handles of their ids.

A pseudonym is made from one spelling of one id of a patient. A handle (`SiteKey.handle`) stands for any spelling of any
of them, so that whoever has one of the ids, and the key file, finds the patient. It stays in the data set's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmmed.data.image_approvals import STATE
from mmmed.errors import DataError
from mmmed.files import write_atomic

_FILE, _VERSION = f"{STATE}/people.json", 1


def save_handles(dataset: Path, people: Mapping[str, Sequence[str]]) -> None:
    """Write the handles of all patients of a data set."""
    content = json.dumps({"version": _VERSION, "people": dict(people)})
    write_atomic(dataset / _FILE, content, mode=0o600)


def load_handles(dataset: Path) -> dict[str, list[str]]:
    """The handles of a data set's patients; none of one that ingest has not made, or an earlier version has.

    Raises:
        DataError: the file cannot be read.
    """
    path = dataset / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"version {content['version']!r}")
        return {str(name): [str(one) for one in handles] for name, handles in content["people"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}), so nobody can say which patients are on an "
            "opt-out list: ingest again"
        ) from error
