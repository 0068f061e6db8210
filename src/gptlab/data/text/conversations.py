"""Read conversations from records of the usual forms: prompt and completion, Alpaca's, messages, ShareGPT's."""

from collections.abc import Callable, Mapping
from typing import Any

from gptlab.errors import UserError

ROLES = ("system", "user", "assistant")
SPEAKERS = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
FORMS = "messages, conversations, a prompt with its completion, or an instruction with its output"

Mistake = Callable[[str, str], UserError]  # of a record: why it is no conversation, and what to do


def conversation(record: Any, mistake: Mistake) -> dict[str, Any]:
    """Return a record as `{"messages": [{"role", "content"}, ...]}`.

    A user's message may have an `input` of its own, as Alpaca's records do. Fields that say nothing of the
    conversation, such as an id, are left out. Raises what `mistake` returns where the record has no such form, an
    unknown role, or no answer of the assistant, from which alone something is learned.
    """
    if not isinstance(record, Mapping):
        raise mistake("is no object", f"give {FORMS}")
    if record.get("tools") or record.get("functions"):
        raise mistake("has tools, which no template here is given", "drop it")
    if "messages" in record:
        messages = messages_of(record["messages"], "messages", mistake)
    elif "conversations" in record:
        messages = messages_of(record["conversations"], "conversations", mistake)
        if record.get("system") and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": text_of(record, "system", "system", mistake)}, *messages]
    elif "prompt" in record or "completion" in record:
        prompt, completion = (
            text_of(record, key, "prompt and completion", mistake) for key in ("prompt", "completion")
        )
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    elif "instruction" in record or "output" in record:
        asked, answer = (text_of(record, key, "instruction and output", mistake) for key in ("instruction", "output"))
        more = text_of(record, "input", "input", mistake) if record.get("input") else ""
        user = {"role": "user", "content": asked, **({"input": more} if more else {})}
        messages = [user, {"role": "assistant", "content": answer}]
    else:
        raise mistake(f"has the fields {', '.join(map(str, record)) or 'of nothing'}", f"give {FORMS}")
    if not any(each["role"] == "assistant" and each["content"].strip() for each in messages):
        raise mistake("has no answer of the assistant: all of its tokens are masked", "give one, or drop it")
    return {"messages": messages}


def messages_of(found: Any, key: str, mistake: Mistake) -> list[dict[str, str]]:
    """Return the messages of a field of a record, `role` and `content` each, or ShareGPT's `from` and `value`.

    Raises what `mistake` returns where they are none.
    """
    if not isinstance(found, list) or not found:
        raise mistake(f"has {key} that are no list of some", 'give [{"role": "user", "content": "..."}, ...]')
    messages = []
    for number, each in enumerate(found, 1):
        shared = isinstance(each, Mapping) and {"from", "value"} <= set(each) and "role" not in each
        if not shared and not (isinstance(each, Mapping) and {"role", "content"} <= set(each)):
            raise mistake(f"has a message {number} without role and content, or from and value", "give it both")
        role, content = ("from", "value") if shared else ("role", "content")
        names = SPEAKERS if shared else dict(zip(ROLES, ROLES, strict=True))
        if not isinstance(each[role], str) or each[role] not in names:
            what = "from" if shared else "of the role"
            todo = "choose one of human, gpt, system" if shared else f"choose one of {', '.join(ROLES)}"
            raise mistake(f"has a message {number} {what} {each[role]!r}", todo)
        if each.get("tool_calls"):
            raise mistake(f"has a message {number} that calls tools", "drop it")
        said = text_of(each, content, f"message {number}", mistake)
        messages.append({"role": names[each[role]], "content": said})
    return messages


def text_of(record: Mapping[str, Any], key: str, form: str, mistake: Mistake) -> str:
    """Return the text of a field; raises what `mistake` returns where there is none."""
    if key not in record:
        raise mistake(f"has no {key}", f"give {form}" if " and " in form else f"give {FORMS}")
    return whole_text(record[key], key, mistake)


def whole_text(value: Any, key: str, mistake: Mistake) -> str:
    """Return the value of a record's field, which must be a text of whole characters."""
    if not isinstance(value, str):
        raise mistake(f"has a {key} that is no text ({type(value).__name__})", "give a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can hold a lone surrogate
        raise mistake(f"has half a character in its {key} (at {error.start})", "mend it") from error
    return value
