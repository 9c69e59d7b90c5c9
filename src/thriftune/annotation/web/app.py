"""What the page asks of the server. Every request names who asks; every reply to a change comes after it is on disk."""

from __future__ import annotations

import asyncio
import hashlib
import unicodedata
from concurrent.futures import Future
from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from thriftune import __version__
from thriftune.annotation.answers import Conflict
from thriftune.annotation.desk import Desk
from thriftune.errors import AnnotationError, StudyError

_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
_LONGEST = 1_000_000


def _name(value: str) -> str:
    """One person, one name: however it was typed."""
    name = " ".join(unicodedata.normalize("NFC", value).split())
    if not name or len(name) > 60 or any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") for c in name):
        raise ValueError("give a name of 1 to 60 characters")
    return name


def _text(value: str) -> str:
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("the text holds half a character (a lone surrogate)")
    return value


Name = Annotated[str, AfterValidator(_name)]
Text = Annotated[str, Field(max_length=_LONGEST), AfterValidator(_text)]
Id = Annotated[str, Field(max_length=100_000), AfterValidator(_text)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Row = Annotated[int, Field(ge=0, lt=2**62)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Name


class Next(_Body):
    """Ask for a prompt."""

    after: Id | None = None


class About(_Body):
    """Ask for one prompt, or act on it."""

    id: Id


class Written(About):
    """A text, half-written or an answer."""

    text: Text
    seconds: Seconds
    revision: Row


class Skipped(About):
    """A prompt passed."""

    seconds: Seconds
    reason: Annotated[str, Field(max_length=2000), AfterValidator(_text)] = ""
    flag: Literal["unanswerable", "duplicate"] | None = None


class Decided(About):
    """A review's outcome."""

    text: Text
    seen: Row | None = None


class Reopened(About):
    """A review's outcome taken back, or flags taken off."""

    what: Literal["decision", "flags"]


def make_app(desk: Desk) -> FastAPI:
    """The server's application, without its guard.

    Args:
        desk: the work.

    Returns:
        An ASGI application.
    """
    app = FastAPI(title="thriftune annotate", version=__version__, docs_url=None, redoc_url=None)
    app.openapi_url = "/api/openapi.json"
    app.setup()
    files = _files()

    @app.exception_handler(Conflict)
    async def _conflict(request: Request, error: Conflict) -> Response:
        return JSONResponse({"error": str(error), "page": error.detail()}, 409)

    @app.exception_handler(AnnotationError)
    async def _refused(request: Request, error: AnnotationError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(StudyError)
    async def _unwritable(request: Request, error: StudyError) -> Response:
        return JSONResponse({"error": str(error)}, 503)

    @app.exception_handler(RequestValidationError)
    async def _malformed(request: Request, error: RequestValidationError) -> Response:
        # Without what was sent: it may be a million characters.
        told = "; ".join(f"{e['loc'][-1] if e['loc'] else 'body'}: {e['msg']}" for e in error.errors())
        return JSONResponse({"error": told[:1000]}, 422)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.get("/", include_in_schema=False)
    async def _page(request: Request) -> Response:
        return _file(request, files, "index.html")

    @app.get("/static/{file}", include_in_schema=False)
    async def _static(request: Request, file: str) -> Response:
        return _file(request, files, file)

    @app.get("/api/study")
    async def study() -> Response:
        """What is annotated here, and how."""
        terms = desk.queue.terms
        return JSONResponse(
            {
                "study": desk.study.path.resolve().name,
                "selection": desk.selection,
                "target": terms.target,
                "overlap": terms.overlap,
                "drafts": desk.show_drafts,
                "guidelines": await asyncio.to_thread(_guidelines, desk),
                "names": await _done(desk.names()),
                "longest": _LONGEST,
            }
        )

    @app.post("/api/next")
    async def next_(body: Next) -> Response:
        """Be handed a prompt, leased to the person."""
        return JSONResponse(await _done(desk.next(body.name, body.after)))

    @app.post("/api/open")
    async def open_(body: About) -> Response:
        """Open a given prompt, leased to the person if it is free."""
        return JSONResponse(await _done(desk.open(body.name, body.id)))

    @app.post("/api/draft")
    async def draft(body: Written) -> Response:
        """Keep a half-written text."""
        return JSONResponse(await _done(desk.save(body.name, body.id, body.text, body.seconds, body.revision)))

    @app.post("/api/answer")
    async def answer(body: Written) -> Response:
        """Give an answer; the reply is the next prompt."""
        return JSONResponse(await _done(desk.answer(body.name, body.id, body.text, body.seconds, body.revision)))

    @app.post("/api/skip")
    async def skip(body: Skipped) -> Response:
        """Pass or flag a prompt; the reply is the next one."""
        return JSONResponse(await _done(desk.skip(body.name, body.id, body.seconds, body.reason, body.flag)))

    @app.post("/api/undo")
    async def undo(body: _Body) -> Response:
        """Take the person's last step back."""
        return JSONResponse(await _done(desk.undo(body.name)))

    @app.get("/api/find")
    async def find(
        name: Annotated[Name, Query()],
        query: Annotated[str, Query(max_length=1000)] = "",
        state: Literal["all", "open", "mine", "skipped"] = "all",
    ) -> Response:
        """Prompts by words and state."""
        return JSONResponse(await _done(desk.find(name, query, state)))

    @app.get("/api/trail")
    async def trail(name: Annotated[Name, Query()]) -> Response:
        """The prompts a person has done, oldest first."""
        return JSONResponse(await _done(desk.trail(name)))

    @app.get("/api/standing")
    async def standing() -> Response:
        """Done, left, pace, hours to go, by person."""
        return JSONResponse(await _done(desk.standing()))

    @app.get("/api/reviews")
    async def reviews() -> Response:
        """What there is to review, and how well people agree."""
        return JSONResponse(await _done(desk.reviews()))

    @app.post("/api/sides")
    async def sides(body: About) -> Response:
        """The answers to one prompt side by side."""
        return JSONResponse(await _done(desk.side_by_side(body.id)))

    @app.post("/api/decide")
    async def decide(body: Decided) -> Response:
        """Take or merge answers."""
        return JSONResponse(await _done(desk.decide(body.name, body.id, body.text, body.seen)))

    @app.post("/api/reopen")
    async def reopen(body: Reopened) -> Response:
        """Take a decision back, or flags off."""
        return JSONResponse(await _done(desk.reopen(body.id, body.what)))

    return app


async def _done(future: Future[Any]) -> Any:
    return await asyncio.wrap_future(future)


def _guidelines(desk: Desk) -> str | None:
    file = desk.guidelines
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8", errors="replace")[:_LONGEST]
    except OSError:
        return None


def _files() -> dict[str, tuple[bytes, str, str]]:
    """The page's files by name, read once: what is not among them cannot be asked for."""
    found = {}
    for entry in resources.files("thriftune.annotation.web").joinpath("static").iterdir():
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in _TYPES:
            data = entry.read_bytes()
            found[entry.name] = (data, _TYPES[suffix], f'"{hashlib.sha256(data).hexdigest()[:20]}"')
    return found


def _file(request: Request, files: dict[str, tuple[bytes, str, str]], name: str) -> Response:
    if name not in files:
        return JSONResponse({"error": "there is no such file"}, 404)
    data, kind, tag = files[name]
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
