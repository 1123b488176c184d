"""The application: /predict, /explain, /studies, /health and /metrics, with its description at /openapi.json."""

from __future__ import annotations

import asyncio
import sys
import typing
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mmmed.errors import DataError
from mmmed.inference.prediction import Prediction
from mmmed.serving.guard import Bounds, Counts, Guard
from mmmed.serving.upload import given_of, read_form
from mmmed.text import escaped

_ASKED = ("/predict", "/explain", "/studies")
_MOST_INSTANCES = 16  # of one request

T = TypeVar("T")
G = TypeVar("G")


@dataclass(frozen=True)
class Served:
    """A model to serve.

    Attributes:
        name: in each answer.
        inputs: names of what may be given of a study.
        files: those of them that are files.
        predict, explain: ask it about one study; from several threads at one time.
        report: what it said of a study as DICOM SR (`mmmed.api.Model.structured_report`).
        stow: whether images come by STOW-RS as well.
        close: called at the end.
    """

    name: str
    inputs: tuple[str, ...]
    files: frozenset[str]
    predict: Callable[..., Prediction]
    explain: Callable[..., Prediction]
    report: Callable[..., bytes]
    stow: bool = False
    close: Callable[[], None] = lambda: None


class Doubt(BaseModel):
    """How far the values can be taken at their word, as `mmmed.inference.prediction.Doubt`."""

    calibrated: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    possible: tuple[str, ...]
    level: float
    told: str


class Answer(BaseModel):
    """What the model says of the study, as ``mmmed predict --json`` writes it."""

    model: str
    values: dict[str, float | str]
    read: tuple[str, ...]
    missing: tuple[str, ...]
    shares: dict[str, dict[str, float]]
    without: dict[str, dict[str, float]]
    nothing: dict[str, float]
    details: dict[str, dict[str, Any]]
    doubt: Doubt


class Problem(BaseModel):
    """Why there is no answer, in a sentence."""

    detail: str


class Health(BaseModel):
    """That the server answers."""

    status: typing.Literal["ok"] = "ok"


def create_app(
    served: Served, bounds: Bounds, token: str | None, hosts: Sequence[str], counts: Counts
) -> FastAPI:
    """The application.

    Args:
        served: the model.
        bounds: of each request.
        token: that requests must bear, all but those for /health; None for no token.
        hosts: names under which it is reached; a request for another is refused (DNS rebinding).
        counts: counted in, and shown.
    """
    threads = ThreadPoolExecutor(bounds.studies, thread_name_prefix="mmmed-study")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        threads.shutdown(wait=True, cancel_futures=True)
        served.close()

    app = FastAPI(
        title="mmmed", description=f"Predictions of {served.name}. Not a medical device.", lifespan=life,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    form = {
        "type": "object", "additionalProperties": False, "minProperties": 1,
        "properties": {
            name: {"type": "string", **({"format": "binary"} if name in served.files else {})}
            for name in served.inputs
        },
    }  # fmt: skip
    told: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    }
    if token is not None:
        told["security"] = [{"bearer": []}]
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 408, 413, 415, 422, 500, 503)
    }
    asking = _Asking(served, bounds, counts, threads)

    @app.post("/predict", response_model=Answer, responses=problems, openapi_extra=told)
    async def predict(request: Request) -> dict[str, Any]:
        """Predict one study from any part of what the model reads. Nothing of it is kept."""
        return await asking.ask(request, served.predict)

    @app.post("/explain", response_model=Answer, responses=problems, openapi_extra=told)
    async def explain(request: Request) -> dict[str, Any]:
        """The same, with what each modality did to it, and within each its parts."""
        return await asking.ask(request, served.explain)

    if served.stow:
        from mmmed.serving.stow import DICOM, JSON, answer

        related: dict[str, Any] = {'multipart/related; type="application/dicom"': {}}
        described: dict[str, Any] = {"requestBody": {"required": True, "content": related}}
        reports: dict[int | str, dict[str, Any]] = {
            200: {"content": related | {JSON: {}}, "description": f"Structured reports ({DICOM})"},
            406: {"model": Problem},
        }

        @app.post(
            "/studies",
            response_class=Response,
            responses={**problems, **reports},
            openapi_extra=told | described,
        )
        async def studies(request: Request) -> Response:
            """Images by STOW-RS; of each the answer is a DICOM SR. Nothing of them is kept."""
            return answer(await asking.instances(request), request.headers.get("accept", ""))

    @app.get("/health")
    async def health() -> Health:
        """Whether the server answers; needs no token."""
        return Health()

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: problems[401]},
    )
    async def metrics() -> Response:
        """Counts of requests by status, their times, and of modalities that studies lacked, for Prometheus."""
        return Response(generate_latest(counts.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "this server failed to answer"}, 500)

    _describe_token(app, token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    paths = (*_ASKED, "/health", "/metrics")
    app.add_middleware(Guard, token=token, bounds=bounds, counts=counts, paths=paths)
    return app


def _describe_token(app: FastAPI, token: str | None) -> None:
    described = app.openapi()
    if token is not None:
        schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        described["paths"]["/metrics"]["get"]["security"] = [{"bearer": []}]


class _Asking:
    """One request, from its form to the answer."""

    def __init__(self, served: Served, bounds: Bounds, counts: Counts, threads: ThreadPoolExecutor) -> None:
        self._served, self._bounds, self._counts, self._threads = served, bounds, counts, threads
        self._now = 0

    async def ask(self, request: Request, model: Callable[..., Prediction]) -> dict[str, Any]:
        form = read_form(request, most=len(self._served.inputs))
        found = await self._within(form, lambda given: self._answer(given, model))
        for name in found.missing:
            self._counts.missing.labels(name).inc()
        return {"model": self._served.name, **found.to_dict()}

    async def instances(self, request: Request) -> list[bytes]:
        """The structured reports on the images of a request, in order."""
        from mmmed.serving.stow import read_instances

        return await self._within(read_instances(request, _MOST_INSTANCES), self._reports)

    async def _within(self, reading: Coroutine[Any, Any, G], answer: Callable[[G], T]) -> T:
        """What is made of a request in a thread, within the bounds of time and number."""
        if self._now >= self._bounds.studies:
            reading.close()
            raise HTTPException(
                503,
                "as many studies as this server takes at one time are being answered",
                {"Retry-After": "1"},
            )
        self._now += 1
        computing: asyncio.Future[T] | None = None
        try:
            given = await self._read(reading)
            try:
                computing = asyncio.get_running_loop().run_in_executor(self._threads, answer, given)
                computing.add_done_callback(self._answered)
                return await asyncio.wait_for(asyncio.shield(computing), self._bounds.seconds)
            except TimeoutError as error:
                raise HTTPException(503, f"no answer within {self._bounds.seconds:g} seconds") from error
        finally:
            if computing is None:
                self._now -= 1

    def _answered(self, computing: asyncio.Future[Any]) -> None:
        self._now -= 1
        if not computing.cancelled():
            computing.exception()  # seen, also where nobody waits for it any more

    async def _read(self, reading: Coroutine[Any, Any, G]) -> G:
        try:
            async with asyncio.timeout(self._bounds.seconds):
                return await reading
        except TimeoutError as error:
            raise HTTPException(
                408, f"the request did not come within {self._bounds.seconds:g} seconds"
            ) from error

    def _answer(self, form: FormData, model: Callable[..., Prediction]) -> Prediction:
        try:
            with _told() as folder:
                return model(**given_of(form, self._served.inputs, self._served.files, folder))
        finally:
            for _, value in form.multi_items():
                if not isinstance(value, str):
                    value.file.close()

    def _reports(self, instances: list[bytes]) -> list[bytes]:
        from mmmed.serving.stow import write_instance

        made = []
        for content in instances:
            with _told() as folder:
                image = write_instance(content, folder)
                found = self._served.predict(image=image)
                made.append(self._served.report(found, image=image))
        return made


@contextmanager
def _told() -> Iterator[Path]:
    """A folder for a study's files, gone afterwards; whatever goes wrong with them is told without its path."""
    with TemporaryDirectory(prefix="mmmed-request-") as temporary:
        try:
            yield Path(temporary)
        except DataError as error:
            raise HTTPException(422, _sentence(error, temporary)) from None
        except HTTPException:
            raise
        except Exception as error:
            tell(error)
            raise HTTPException(500, "this server failed to answer") from None


def _sentence(error: DataError, folder: str) -> str:
    """What is wrong with the study, in one line and without the server's folders."""
    return escaped(" ".join(str(error).replace(f"{folder}/", "").split()))


def tell(error: Exception) -> None:
    """Where it failed, for who runs the server; the message may quote a study."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" in {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}" if last else ""
    sys.stderr.write(f"error: {type(error).__name__}{where}\n")
