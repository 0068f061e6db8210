"""Serve web pages on this machine, or, with a token, to others."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable, Collection
from types import FrameType
from typing import Any

import uvicorn
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptlab.errors import UserError, reason

COOKIE = "token"
PATIENCE = 3  # seconds that an answer has to end in, once the server is asked to stop
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
Refusal = Callable[[str, int], Response]  # of a message and a status


class Guard:
    """Refuse requests without the token, and, where there is none, those that reach this machine by another name.

    The latter are pages of others that a browser was led to send here (DNS rebinding). The paths `open_to_all` need no
    token.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        refusal: Refusal = PlainTextResponse,
        open_to_all: Collection[str] = (),
    ) -> None:
        self.app, self.token, self.refusal, self.open_to_all = app, token, refusal, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = Request(scope)
        if self.token is None:
            host = request.headers.get("host", "")
            if not any(host == name or host.startswith(f"{name}:") for name in LOOPBACK):
                return await self.refusal("use the address that was printed", 421)(scope, receive, send)
            return await self.app(scope, receive, send)
        if scope["path"] in self.open_to_all:
            return await self.app(scope, receive, send)
        given = request.query_params.get("token")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not any(_same(each, self.token) for each in (given, bearer, request.cookies.get(COOKIE))):
            why = "the token is missing: use the address that was printed"
            return await self.refusal(why, 403)(scope, receive, send)

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and given:
                cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self.app(scope, receive, with_cookie)


async def body_of(request: Request, most: int) -> bytes | None:
    """Return the body of a request; None where it has more than `most` bytes."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            return None
    return body


def _same(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def token_for(host: str, token: str | None) -> str | None:
    """Return the token that is given, or, where others can reach the server, a new one."""
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises UserError for a port that is taken, or may not be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise UserError("host", host, f"is no address here ({reason(error)})", "try 127.0.0.1") from None
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(1024)
    except OSError as error:
        found.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({reason(error)})"
        raise UserError("port", port, why, "give another, or port=0 for any that is free") from None
    return found


class _Server(uvicorn.Server):
    """A server that calls `stop` where it is asked to end again, or answers have not ended after PATIENCE seconds."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and self._stop is not None:
            self._stop()
            self._stop = None
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._stop is not None:
            asyncio.get_running_loop().call_later(PATIENCE, self._stop)
        await super().shutdown(sockets)


def address(sock: socket.socket) -> str:
    """Return the address of a socket that listens, without a path."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    app: ASGIApp,
    sock: socket.socket,
    token: str | None,
    say: Callable[[str], Any],
    refusal: Refusal = PlainTextResponse,
    open_to_all: Collection[str] = (),
    stop: Callable[[], None] | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM; `say` is called with the address once it can be opened.

    Answers that have not ended PATIENCE seconds later are given up by `stop`, else cancelled. For the others see Guard.
    """
    say(f"{address(sock)}/{f'?token={token}' if token else ''}")
    guard = Guard(app, token, refusal, open_to_all)
    config = uvicorn.Config(
        guard,
        log_level="warning",
        lifespan="off",
        access_log=False,
        timeout_graceful_shutdown=PATIENCE if stop is None else None,
    )
    _Server(config, stop).run(sockets=[sock])
