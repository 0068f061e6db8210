"""Let people play with models in a web page: write, see what else was likely, and where attention goes."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

from gptlab.app.asked import Looking, Writing, read
from gptlab.app.pages import HEADERS, asset, page
from gptlab.app.served import Served
from gptlab.app.server import body_of
from gptlab.app.settings import decoder_forms
from gptlab.app.writing import begin, looked_at, written
from gptlab.errors import UserError, one_line, reason

T = TypeVar("T")
MOST_BYTES = 1 << 20  # of a request
MOST_TEXTS = 8  # that are written at the same time, each with a cache of its own; others wait
JSON = "application/json"


def playground_app(served: Sequence[Served]) -> Starlette:
    """Return the pages of a playground with some models.

    Texts of all pages are written in turn, a token each, so that no page waits for another's whole text, and one that
    goes away takes no turn any more.
    """
    app = Starlette(
        routes=[
            Route("/", lambda request: page("playground.html")),
            Route("/site", _site),
            Route("/write", _write, methods=["POST"]),
            Route("/look", _look, methods=["POST"]),
            Route("/{name}", asset),
        ],
        exception_handlers={UserError: _mistake},
    )
    app.state.served = {each.name: each for each in served}
    app.state.turn, app.state.places = asyncio.Lock(), asyncio.Semaphore(MOST_TEXTS)
    return app


def _site(request: Request) -> Response:
    """Say which models and decoders there are."""
    runs = [each.about() for each in request.app.state.served.values()]
    return JSONResponse({"runs": runs, "decoders": decoder_forms()}, headers=HEADERS)


def _mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400, HEADERS)


async def _asked(request: Request, kind: type[T]) -> T:
    """Read a request; a page of others cannot send one, as a browser asks first where it is said to be JSON."""
    told = request.headers.get("content-type", "").partition(";")[0].strip()
    if told != JSON:
        raise UserError("content-type", told, "is not that of JSON", f"send {JSON}")
    body = await body_of(request, MOST_BYTES)
    if body is None:
        raise UserError("body", "of the request", f"has more than {MOST_BYTES:,} bytes", "send less")
    return await run_in_threadpool(read, kind, body)


def _model(request: Request, name: str) -> Served:
    served: dict[str, Served] = request.app.state.served
    if name not in served:
        raise UserError("run", name, "is not served here", f"choose one of {', '.join(served)}")
    return served[name]


async def _look(request: Request) -> Response:
    """Tell what was likely in the place of a token, and its attention."""
    asked = await _asked(request, Looking)
    model = _model(request, asked.run)
    try:
        async with request.app.state.turn:
            return JSONResponse(await run_in_threadpool(looked_at, model, asked), headers=HEADERS)
    except UserError:
        raise
    except Exception as error:  # of a decoder or a model of another package
        return JSONResponse({"error": _crashed(error)}, 500, HEADERS)


async def _write(request: Request) -> Response:
    """Write a text, each event a line of JSON; whoever goes away ends it."""
    asked = await _asked(request, Writing)
    model = _model(request, asked.run)
    state = request.app.state
    async with state.turn:  # a tokenizer has a state while it encodes
        begun = await run_in_threadpool(begin, model, asked)
    return _Lines(_in_turn(written(model, asked, begun), state.turn, state.places), headers=HEADERS)


class _Lines(StreamingResponse):
    """A reply that ends what makes it, at once, where the client goes away."""

    media_type = "application/x-ndjson"

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


async def _in_turn(
    events: Iterator[dict[str, Any]], turn: asyncio.Lock, places: asyncio.Semaphore
) -> AsyncIterator[str]:
    """Yield each event as a line, its work done while no other is."""
    try:
        if places.locked():
            yield _line({"waiting": True})
        async with places:
            while True:
                async with turn:
                    event = await run_in_threadpool(next, events, None)
                if event is None:
                    return
                yield _line(event)
    except UserError as error:
        yield _line({"error": str(error)})
    except Exception as error:  # of a decoder or a model of another package: the server goes on
        yield _line({"error": _crashed(error)})
    finally:
        events.close()  # type: ignore[attr-defined]


def _crashed(error: Exception) -> str:
    """Print the traceback of an unexpected error, and return it in one line."""
    traceback.print_exception(error)
    return one_line(f"it failed ({type(error).__name__}: {reason(error)}); the server's log says more")


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event) + "\n"
