"""Render chat templates, which are programs of strangers, in Jinja's sandbox.

A template can compute on the messages that it is given; the sandbox lets it reach nothing else. Its dialect is that of
transformers: blocks trimmed, loop controls, `raise_exception`, and `{% generation %}` around what the assistant says.
Today's date (`strftime_now`) is not known, so that a text is the same tomorrow.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gptlab.errors import UserError, reason

# noncharacters, which no text is meant to have (Unicode ch. 23.7)
BEGIN, END, OPEN, CLOSE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"


def render(template: str, messages: Sequence[Mapping[str, Any]], ask: bool, names: Mapping[str, Any]) -> str:
    """Return the text of a conversation by a template, with BEGIN and END around what stands in `{% generation %}`.

    With `ask` the template also begins the assistant's next turn. `names` are further variables, such as eos_token.
    Raises UserError where the template cannot be read, fails, or tries to leave the sandbox.
    """
    try:
        return str(_compiled(template).render(messages=list(messages), add_generation_prompt=ask, **names))
    except Exception as error:  # whatever the template's code raises
        why = f"the chat template fails ({type(error).__name__}: {reason(error)})"
        raise UserError("template", "of the tokenizer", why, "choose another, such as task.template=chatml") from error


@functools.lru_cache(8)
def _compiled(template: str) -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block `{% generation %}` of transformers, which marks what the assistant says."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            marks = [nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (BEGIN, END)]
            return [marks[0], nodes.Scope(body, lineno=line), marks[1]]

    sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    sandbox.filters["tojson"] = _as_json
    sandbox.globals["raise_exception"] = _refuse
    return sandbox.from_string(template)


def _as_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)  # Jinja's own escapes for HTML


def _refuse(message: str) -> None:
    raise ValueError(message)
