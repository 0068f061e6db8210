"""Answer the requests of OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models; and /health."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gptlab.app.api.answers import Job
from gptlab.app.api.asked import Asked, Served, chat_of, completion_of, require_model
from gptlab.app.api.errors import ApiError
from gptlab.app.api.replies import Chats, Completions
from gptlab.app.server import body_of
from gptlab.decoding.engine import Closed
from gptlab.errors import reason

MOST_BYTES = 1 << 25  # of a request
OPEN = ("/health",)  # what needs no token


def api(served: Served) -> Starlette:
    """Return the API of one model. Its engine is not closed here."""
    app = Starlette(
        routes=[
            Route("/v1/completions", _completions, methods=["POST"]),
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/health", _health),
        ],
        exception_handlers={ApiError: _mistake, HTTPException: _mistake, ClientDisconnect: _gone, Exception: _fault},
    )
    app.state.served = served
    app.state.answered = 0
    return app


async def _completions(request: Request) -> Response:
    return await _answer(request, completion_of, Completions)


async def _chat(request: Request) -> Response:
    return await _answer(request, chat_of, Chats)


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_about(request.app.state.served)]})


async def _model(request: Request) -> Response:
    require_model(request.path_params["name"], request.app.state.served)
    return JSONResponse(_about(request.app.state.served))


async def _health(request: Request) -> Response:
    running, waiting = request.app.state.served.engine.counts()
    return JSONResponse({"status": "ok", "running": running, "waiting": waiting})


def _about(served: Served) -> dict[str, Any]:
    about = {"id": served.name, "object": "model", "created": served.created, "owned_by": "gptlab"}
    return {**about, "max_model_len": served.block_size}


async def _answer(request: Request, read: Callable[[Any, Served], Asked], shape: type[Completions]) -> Response:
    """Answer a request at its end, or in a stream; a client that leaves is not written for any more."""
    served: Served = request.app.state.served
    body = await _body(request)

    def read_alone() -> Asked:
        with served.reading:
            return read(body, served)

    asked = await run_in_threadpool(read_alone)
    job = Job(asked, served)
    reply = shape(served.name, served.tokenizer, job)
    if asked.stream:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(request, job, reply), media_type="text/event-stream", headers=headers)
    try:
        served.engine.submit(job.rows)
        await _unless_gone(request, _all_of(job))
    except Exception as error:
        raise _explained(error) from error
    finally:
        served.engine.cancel(job.rows)
    request.app.state.answered += 1
    return JSONResponse(reply.whole())


async def _body(request: Request) -> Any:
    """Return the JSON of a request. Another type is refused: a page of others can send it without being asked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send JSON, with the header Content-Type: application/json")
    body = await body_of(request, MOST_BYTES)
    if body is None:
        raise ApiError(413, f"the body has more than {MOST_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no JSON ({reason(error)})") from error


async def _all_of(job: Job) -> None:
    async for _ in job.pieces():
        pass


async def _unless_gone(request: Request, work: Any) -> None:
    """Wait for work as long as the client waits; raises ClientDisconnect where it leaves."""
    done, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        await done
    finally:
        done.cancel()
        gone.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(request: Request, job: Job, reply: Completions) -> AsyncIterator[str]:
    """Yield the events of a stream, and give the texts up where nobody reads them any more."""
    served: Served = request.app.state.served
    try:
        served.engine.submit(job.rows)
        for choice in reply.first():
            yield _event(reply.chunk(choice))
        async for piece in job.pieces():
            for choice in reply.part(piece):
                yield _event(reply.chunk(choice))
        if job.asked.stream_usage:
            yield _event(reply.chunk(usage=True))
        request.app.state.answered += 1
        yield "data: [DONE]\n\n"
    except Exception as error:
        yield _event(_explained(error).record())
    finally:
        served.engine.cancel(job.rows)


def _event(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record, ensure_ascii=False)}\n\n"


def _explained(error: Exception) -> ApiError:
    """Return what ends an answer as an error of the API."""
    if isinstance(error, ClientDisconnect):
        return ApiError(499, "the client has left")
    if isinstance(error, Closed):
        return ApiError(503, reason(error))
    logging.getLogger(__name__).error("an answer has failed", exc_info=error)
    return ApiError(500, f"{type(error).__name__}: {reason(error)}")


async def _mistake(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, HTTPException)
    unknown = f"Invalid URL ({request.method} {request.url.path})"
    return ApiError(error.status_code, unknown if error.status_code == 404 else str(error.detail)).response()


async def _gone(request: Request, error: Exception) -> Response:
    return ApiError(499, "the client has left").response()


async def _fault(request: Request, error: Exception) -> Response:
    return ApiError(500, f"{type(error).__name__}: {reason(error)}").response()
