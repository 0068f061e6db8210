"""Find the chat template in which the model of a run answers."""

from collections.abc import Sequence
from typing import Any

from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.saved import task_of
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import AUTO, ChatTemplate, chat_template


def template_of(run: RunDir, tokenizer: Tokenizer, key: str = "run") -> ChatTemplate:
    """Return the template of a run's task, such as sft, or the one that its tokenizer came with.

    Raises UserError, which names `key`, where there is neither.
    """
    task: Any = task_of(run.config())
    if hasattr(task, "chat_template"):
        found: ChatTemplate = task.chat_template(tokenizer)
        return found
    if tokenizer.declared.chat_template is None:
        why, todo = "neither its task nor its tokenizer has a chat template", "fine-tune it first: task=sft"
        raise UserError(key, run.path, why, todo)
    return chat_template(AUTO, tokenizer)


def template_if_any(run: RunDir, tokenizer: Tokenizer) -> tuple[ChatTemplate | None, str]:
    """Return the chat template of a run; None, and why, where it has none that works."""
    try:
        return template_of(run, tokenizer), ""
    except UserError as error:
        return None, error.why


def first_messages(system: str | None) -> Sequence[dict[str, str]]:
    """Return the messages that a conversation begins with."""
    return [] if system is None else [{"role": "system", "content": system}]


def fitting(
    template: ChatTemplate, first: list[dict[str, str]], said: list[dict[str, str]], line: str, room: int
) -> tuple[list[dict[str, str]], int]:
    """Return the newest turns that, with `first` and the next message, take at most `room` tokens.

    Returns also how many messages are forgotten.
    """
    kept = said
    while kept and len(template.prompt([*first, *kept, {"role": "user", "content": line}])) > room:
        kept = kept[2:]
    return kept, len(said) - len(kept)
