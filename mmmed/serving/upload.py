"""From a request's form to what a model is asked: text as it is, files in a folder that is gone with the request."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

_FORM = "multipart/form-data"
_MOST_TEXT = 1 << 20  # bytes of one text of a form
_ENDING = re.compile(r"(\.[A-Za-z0-9]{1,8}){1,2}\Z")


class _Parser(MultiPartParser):
    """Starlette's, which takes a form that ends in the middle for a whole one."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


async def read_form(request: Request, most: int) -> FormData:
    """The form of a request, of at most so many texts and so many files.

    Raises:
        HTTPException: 415, it is no form with parts; 400, it cannot be read, or ends before its end.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415, f"expected {_FORM}, with a part for each name that is given")
    parser = _Parser(
        request.headers, request.stream(), max_files=most, max_fields=most, max_part_size=_MOST_TEXT
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    except (FormParserError, ClientDisconnect) as error:
        raise HTTPException(
            400, f"the {_FORM} cannot be read: expected parts between its boundaries"
        ) from error
    if not parser.ended:
        raise HTTPException(400, f"the {_FORM} ends before its closing boundary")
    return form


def given_of(
    form: FormData, names: Collection[str], files: Collection[str], folder: Path
) -> dict[str, str | Path]:
    """What is known of the study, by name.

    Args:
        form: of the request.
        names: that the model reads.
        files: those of them that are files. A text would be taken for the path of a file of this machine.
        folder: empty; the files are written there. Of a file's own name its ending is kept, if it is a plain one.

    Raises:
        HTTPException: 422, a name that the model does not read or that is given twice, or text in place of a file.
    """
    given: dict[str, str | Path] = {}
    for number, (name, value) in enumerate(form.multi_items()):
        if name not in names:
            raise HTTPException(422, f"a name that the model does not read. It reads: {', '.join(names)}")
        if name in given:
            raise HTTPException(422, f"{name}: given twice")
        if isinstance(value, UploadFile):
            ending = _ENDING.search(value.filename or "")
            path = (
                folder
                / f"{name if name in files and name.isidentifier() else number}{ending[0] if ending else ''}"
            )
            with path.open("wb") as copy:
                shutil.copyfileobj(value.file, copy)
            given[name] = path
        elif name in files:
            raise HTTPException(422, f"{name}: expected a file, with a file name in its part of the form")
        else:
            given[name] = value
    return given
