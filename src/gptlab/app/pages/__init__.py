"""Render the web pages: all that a text holds is escaped, and no page loads anything from elsewhere."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

FOLDER = Path(__file__).parent
KINDS = {".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER), autoescape=select_autoescape(), undefined=StrictUndefined, trim_blocks=True
    )


def page(name: str, status_code: int = 200, **values: Any) -> Response:
    """Return a page of this folder with its values."""
    return HTMLResponse(_templates().get_template(name).render(values), status_code, HEADERS)


def asset(request: Request) -> Response:
    """Return a style sheet or a script of this folder."""
    path = FOLDER / request.path_params["name"]
    if path.suffix not in KINDS or path.parent != FOLDER or not path.is_file():
        return Response("no such page", 404)
    return Response(path.read_bytes(), headers=HEADERS, media_type=KINDS[path.suffix])
