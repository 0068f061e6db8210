"""Read pairs of answers from records of the usual forms: a prompt with a chosen and a rejected answer."""

from collections.abc import Mapping
from typing import Any

from gptlab.data.text.conversations import Mistake, messages_of, text_of

FORM = "prompt, chosen and rejected"
SIDES = ("chosen", "rejected")


def pair(record: Any, mistake: Mistake) -> dict[str, Any]:
    """Return a record as `{"prompt", "chosen", "rejected"}`, a list of messages each.

    Each of the three is a text, or messages with roles. The answers may begin with the prompt's messages, which are
    then what both have in common at their beginning. Raises what `mistake` returns where the record has no such form,
    an answer says nothing, or the two are the same.
    """
    if not isinstance(record, Mapping):
        raise mistake("is no object", f"give {FORM}")
    answers = [_messages(record, side, "assistant", mistake) for side in SIDES]
    if answers[0] == answers[1]:
        raise mistake("has the same answer in chosen and rejected", "give two that differ, or drop it")
    if all(each[0]["role"] != "assistant" for each in answers):
        prompt, answers = _divided(answers)
    else:
        prompt = _messages(record, "prompt", "user", mistake)
    if not prompt or prompt[-1]["role"] == "assistant":
        raise mistake("has no prompt that ends before the assistant's answer", "give what is asked")
    for side, answer in zip(SIDES, answers, strict=True):
        said = answer and answer[-1]["role"] == "assistant" and answer[-1]["content"].strip()
        if not said:
            raise mistake(f"has no answer of the assistant in {side}: no token counts", "give one, or drop it")
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def _messages(record: Mapping[str, Any], key: str, role: str, mistake: Mistake) -> list[dict[str, str]]:
    """Return the messages of a field; a text is one of `role`."""
    if isinstance(record.get(key), list):
        return messages_of(record[key], key, mistake)
    return [{"role": role, "content": text_of(record, key, FORM, mistake)}]


def _divided(answers: list[list[dict[str, str]]]) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """Return the messages that two conversations begin with in common, and what follows in each."""
    shared = 0
    while shared < min(map(len, answers)) and answers[0][shared] == answers[1][shared]:
        shared += 1
    return answers[0][:shared], [each[shared:] for each in answers]
