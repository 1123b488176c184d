"""The application around the pages: login, security headers, static files, the frame of every page.

Nothing comes from another machine: scripts, styles and Plotly are served from what is installed. The content security
policy (W3C CSP level 3) permits only those. Pages read; a section that takes decisions says where, and takes them on
this machine alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qs

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from mmmed.dashboard.metrics import CONTENT_TYPE, Gauge, exposition
from mmmed.dashboard.sessions import COOKIE, Sessions
from mmmed.errors import MmmedError

_MOST_FORM_BYTES = 4096
_METRICS = "/metrics"
_OPEN = ("/login", "/static/", _METRICS)  # what is seen without a session; the last asks for the token itself
_HEADERS = {
    # Plotly sets the styles of its drawings itself
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Section:
    """Pages that belong together.

    Attributes:
        name: what the navigation calls them.
        path: where they begin, such as "/runs".
        router: the pages; each calls `page`.
        package: Python package that holds their ``templates``.
        gauges: reads their figures for Prometheus.
        decisions: begins the paths that take a form, each checked by `form_of`; "" if the pages only read.
        note: what to tell whoever starts the dashboard.
    """

    name: str
    path: str
    router: APIRouter
    package: str
    gauges: Callable[[], Sequence[Gauge]] = tuple
    decisions: str = ""
    note: str = ""


class Forbidden(MmmedError):
    """What was sent is not taken here."""


def create_app(
    sections: Sequence[Section], token: str, hosts: Sequence[str], *, secure: bool, local: bool = True
) -> FastAPI:
    """The application.

    Args:
        sections: what there is to see; the first is shown after login.
        token: what a person must enter to log in.
        hosts: names under which the application is reached; a request for another is refused (DNS rebinding).
        secure: it is served over TLS, so that the cookie is never sent without.
        local: only this machine reaches it; else no decision is taken.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.sections = tuple(sections)
    app.state.local, app.state.sessions = local, (sessions := Sessions(token))
    decisions = tuple(section.decisions for section in sections if section.decisions)
    app.mount("/static", StaticFiles(packages=[("mmmed.dashboard", "static")]), name="static")

    @app.middleware("http")
    async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        sending = path in ("/login", "/logout") or (request.method == "POST" and path.startswith(decisions))
        reading = request.method in ("GET", "HEAD") or sending
        if not reading:
            response: Response = PlainTextResponse("this application only reads", 405)
        elif path.startswith(_OPEN) or sessions.known(request.cookies.get(COOKIE)):
            response = await proceed(request)
        else:
            response = RedirectResponse("/login", 303)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(MmmedError)
    async def tell(request: Request, error: MmmedError) -> HTMLResponse:
        return page(
            request,
            "mmmed.dashboard",
            "problem.html",
            status=403 if isinstance(error, Forbidden) else 409,
            title="This cannot be shown",
            text=str(error),
        )

    @app.get("/")
    async def home() -> RedirectResponse:
        return RedirectResponse(sections[0].path, 303)

    @app.get("/login")
    async def ask(request: Request) -> HTMLResponse:
        return page(request, "mmmed.dashboard", "login.html", title="Log in", wrong=False)

    @app.post("/login")
    async def login(request: Request) -> Response:
        session = sessions.open((await _sent(request)).get("token", ""))
        if session is None:
            return page(request, "mmmed.dashboard", "login.html", status=403, title="Log in", wrong=True)
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, session, httponly=True, samesite="strict", secure=secure)
        return response

    @app.get(_METRICS)
    def metrics(request: Request) -> Response:
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not sessions.holds(sent.strip()):
            return PlainTextResponse("Authorization: Bearer TOKEN", 401, {"WWW-Authenticate": "Bearer"})
        figures = exposition(gauge for section in sections for gauge in section.gauges())
        return Response(figures, media_type=CONTENT_TYPE)

    @app.post("/logout")
    async def logout(request: Request) -> RedirectResponse:
        sessions.close(request.cookies.get(COOKIE))
        return RedirectResponse("/login", 303)

    @app.get("/static-plotly.js")
    def plotly() -> Response:
        from plotly.offline import get_plotlyjs

        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(get_plotlyjs(), media_type="text/javascript", headers=headers)

    for section in sections:
        app.include_router(section.router, prefix=section.path)
    return app


def page(
    request: Request, package: str, template: str, *, title: str, status: int = 200, **values: object
) -> HTMLResponse:
    """A page in the frame of the application; every value is escaped.

    Args:
        request: what the page answers; it gives the sections and the place in the navigation.
        package: Python package whose ``templates`` hold the template.
        template: file name of the template.
        title: of the page.
        status: HTTP status code.
        **values: what the template shows, by name.
    """
    text = (
        _templates(package)
        .get_template(template)
        .render(
            title=title,
            sections=request.app.state.sections,
            here=request.url.path,
            form=request.app.state.sessions.form(request.cookies.get(COOKIE)),
            **values,
        )
    )
    return HTMLResponse(text, status)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that decides something.

    Raises:
        Forbidden: it did not come from a page of this session, or others than this machine reach the dashboard.
    """
    fields = await _sent(request)
    if not request.app.state.local:
        raise Forbidden("Decisions are taken on this machine alone: serve the dashboard on 127.0.0.1")
    if not request.app.state.sessions.is_form(request.cookies.get(COOKIE), fields.get("form", "")):
        raise Forbidden(
            "This form was not opened in this session. Open the page again, and send it from there"
        )
    return fields


async def _sent(request: Request) -> dict[str, str]:
    """The fields of a form; none if it is too long to be one of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_FORM_BYTES:
            return {}
    return {name: values[0].strip() for name, values in parse_qs(body.decode("utf-8", "replace")).items()}


@lru_cache
def _templates(package: str) -> Environment:
    loaders = [PackageLoader(package), PackageLoader("mmmed.dashboard")]
    return Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
