"""Judge a model on items with choices: by which of the continuations is the most probable one."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.evaluation.eval_task import ChoiceItem
from gptlab.evaluation.task_scores import Asking, ItemScores
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatTemplate

Ids = list[int]
METRICS = ("acc", "acc_norm", "acc_bytes", "bits_per_byte")


def score_choices(gpt: Any, tokenizer: Tokenizer, items: Sequence[ChoiceItem], asking: Asking) -> ItemScores:
    """Return what is right of each item, and the cost of its answer.

    `acc` is 1 where the answer has the highest log-likelihood, `acc_norm` the highest a character, `acc_bytes` the
    highest a byte; a tie counts as wrong. `bits_per_byte` is the cost of the answer alone, left out where the tokenizer
    does not spell all answers. Names and definitions are those of lm-eval 0.4.13, whose first choice wins a tie.
    """
    texts = [(item.context, choice) for item in items for choice in item.choices]
    if asking.template is None:
        texts = [after(*text) for text in texts]
        pairs = [encode_pair(tokenizer, *text) for text in texts]
    else:
        pairs = [encode_answer(asking.template, *text) for text in texts]
    asking.require_fits([len(continuation) for _, continuation in pairs], "choice", asking.block_size)
    logprobs = [logprob for logprob, _ in loglikelihoods(gpt, pairs, asking.block_size, asking.batch_size)]
    asking.require_finite(logprobs)
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    sizes, at, lost = [], 0, 0
    for item in items:
        own = slice(at, at + len(item.choices))
        at = own.stop
        said = [text for _, text in texts[own]]
        lengths = {"acc": [1] * len(said), "acc_norm": [*map(len, said)], "acc_bytes": [len(s.encode()) for s in said]}
        for name, each in lengths.items():
            values[name].append(float(_is_best(item.answer, np.array(logprobs[own]) / np.array(each))))
        values["bits_per_byte"].append(-logprobs[own][item.answer] / math.log(2))
        sizes.append(lengths["acc_bytes"][item.answer])
        lost += tokenizer.unspelled(said[item.answer], np.array(pairs[own][item.answer][1]))
    if lost:
        del values["bits_per_byte"]
    cut = sum(len(context) + len(continuation) > asking.block_size + 1 for context, continuation in pairs)
    chance = sum(1 / len(item.choices) for item in items) / len(items)
    weights = {"bits_per_byte": np.array(sizes, np.float64)}
    found = {name: np.array(each) for name, each in values.items()}
    return ItemScores("acc", found, weights, {"chance": chance, "choices_cut": cut})


def after(context: str, continuation: str) -> tuple[str, str]:
    """Return a context without the white space at its end, and what follows it: there tokens begin with a space."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[Ids, Ids]:
    """Return the ids of a context and of what follows it, as they are where both are encoded as one text.

    Where a token of that text would span both, they are encoded apart: all choices then have the same context.
    """
    before = [*tokenizer.start, *tokenizer.encode(context)]
    whole = [*tokenizer.start, *tokenizer.encode(context + continuation)]
    if whole[: len(before)] == before and len(whole) > len(before):
        return before, whole[len(before) :]
    return before, tokenizer.encode_within(continuation)


def encode_answer(template: ChatTemplate, context: str, answer: str) -> tuple[Ids, Ids]:
    """Return the ids of a chat in which a user says the context, and those of what the assistant answers."""
    return template.prompt([{"role": "user", "content": context}]), template.tokenizer.encode_within(answer)


def _is_best(answer: int, scores: Any) -> bool:
    return bool((scores[answer] > np.delete(scores, answer)).all())
