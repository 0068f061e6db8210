"""Let people judge texts in a web page: blind, in pairs or by criteria, with the keyboard alone."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from gptlab.app.pages import asset, page
from gptlab.app.questions import next_question
from gptlab.app.server import body_of
from gptlab.app.store import Question, Study
from gptlab.evaluation.ratings import CHOICES

RATER = "rater"  # the cookie with a rater's name
LONGEST_NAME = 60
MOST_BYTES = 10_000  # of what a form sends
SCORES = range(1, 6)


def rating_app(study: Study) -> Starlette:
    """Return the pages of a study. Every acknowledged answer is in its file: the reply comes after the transaction."""
    app = Starlette(
        routes=[
            Route("/", _ask),
            Route("/rater", _name, methods=["POST"]),
            Route("/answer", _answer, methods=["POST"]),
            Route("/leave", _leave, methods=["POST"]),
            Route("/{name}", asset),
        ]
    )
    app.state.study = study
    return app


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form, of at most MOST_BYTES."""
    body = await body_of(request, MOST_BYTES)
    return {} if body is None else dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _ask(request: Request) -> Response:
    """Show what the rater is asked, or ask for the name."""
    study: Study = request.app.state.study
    name = _rater(request)
    if not name:
        return page("name.html")
    rater = study.rater(name)
    question, given = next_question(study, rater), study.count(rater)
    if question is None:
        return page("done.html", given=given)
    return page("question.html", given=given, rater=name, question=question.id, **_shown(study, question))


def _shown(study: Study, question: Question) -> dict[str, Any]:
    """Return what a rater sees of a question: never where a text comes from."""
    prompt, left = study.text(question.left)
    if question.right is None:
        return {"prompt": prompt, "left": left, "criteria": study.settings["criteria"], "scores": SCORES}
    return {"prompt": prompt, "left": left, "right": study.text(question.right)[1]}


async def _name(request: Request) -> Response:
    """Begin, or come back, with a name."""
    name = " ".join((await _form(request)).get("name", "").split())[:LONGEST_NAME]
    if not name:
        return page("name.html", status_code=400)
    reply = RedirectResponse("/", 303)
    reply.set_cookie(RATER, name.encode().hex(), max_age=30 * 24 * 3600, httponly=True, samesite="strict")
    return reply


async def _answer(request: Request) -> Response:
    """Keep an answer, and go on to the next question."""
    form = await _form(request)
    return await run_in_threadpool(_keep, request.app.state.study, _rater(request), form)


def _keep(study: Study, name: str, form: dict[str, str]) -> Response:
    said, number = _said(form, study), form.get("question", "")
    fits = name and number.isdecimal() and len(number) < 18 and said is not None
    if not (fits and study.answer(study.rater(name), int(number), said)):
        return Response("this answer fits no question of yours; go back to / and try again", 400)
    return RedirectResponse("/", 303)


def _said(form: dict[str, str], study: Study) -> Any:
    """Return the answer in a form, or None where it has none."""
    if study.settings["mode"] == "pairs":
        return form.get("choice") if form.get("choice") in CHOICES else None
    scores = {name: form.get(f"criterion-{name}", "") for name in study.settings["criteria"]}
    allowed = {str(score) for score in SCORES}
    return {name: int(score) for name, score in scores.items()} if set(scores.values()) <= allowed else None


def _leave(request: Request) -> Response:
    """Forget the name, so that another rater can begin."""
    reply = RedirectResponse("/", 303)
    reply.delete_cookie(RATER)
    return reply


def _rater(request: Request) -> str:
    """Return the name in the cookie, or nothing where there is none."""
    try:
        return bytes.fromhex(request.cookies.get(RATER, "")).decode()
    except ValueError:
        return ""
