"""Judge a model on summaries: it continues each prompt, and ROUGE compares that with the reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.texts import Codec, continue_prompts
from gptlab.errors import require
from gptlab.evaluation.eval_task import SummaryItem
from gptlab.evaluation.task_scores import Asking, ItemScores
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatCodec

ROUGE = ("rouge1", "rouge2", "rougeL")  # of words in small letters, not stemmed; the others would need nltk's data


def score_summaries(gpt: Any, tokenizer: Tokenizer, items: Sequence[SummaryItem], asking: Asking) -> ItemScores:
    """Return ROUGE's F-measures of the first paragraph that the model writes after each prompt, greedily (Lin 2004).

    It writes until it ends the text, at most `max_new_tokens`. Of a prompt that is too long the beginning is dropped.
    """
    codec: Codec = tokenizer
    start, ends = tokenizer.start, tokenizer.ends
    if asking.template is not None:
        codec, start, ends = ChatCodec(asking.template), [], asking.template.ends
    room = asking.block_size - asking.max_new_tokens - len(start)
    why = f"leaves no room for a prompt in the context of {asking.block_size}"
    require(room > 0, "max_new_tokens", asking.max_new_tokens, why, "lower it")
    limits = Limits(asking.max_new_tokens, asking.block_size, ends, tokenizer.n_vocab)
    texts: list[str] = []
    for at in range(0, len(items), asking.batch_size):
        prompts = [item.prompt for item in items[at : at + asking.batch_size]]
        keys = [(0, n) for n in range(len(prompts))]  # greedy: nothing is drawn
        found = continue_prompts(gpt, _End(codec, room), prompts, keys, Greedy(), limits, start=start)
        texts += [each.text.strip().partition("\n\n")[0] for each in found]
    scores = [rouge(text, item.reference) for text, item in zip(texts, items, strict=True)]
    values = {name: np.array([each[name] for each in scores]) for name in ROUGE}
    cut = sum(len(codec.encode(item.prompt)) > room for item in items)
    return ItemScores("rougeL", values, {}, {"prompts_cut": cut}, texts)


def rouge(text: str, reference: str) -> dict[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L of one text, as F-measures."""
    from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(text, reference, rouge_keys=ROUGE)
    return {name: float(found[f"{name}_fmeasure"]) for name in ROUGE}


@dataclass(frozen=True)
class _End:
    """A codec that keeps the last ids of a prompt."""

    codec: Codec
    most: int

    @property
    def n_vocab(self) -> int:
        return self.codec.n_vocab

    def encode(self, text: str) -> list[int]:
        return self.codec.encode(text)[-self.most :]

    def decode(self, ids: Sequence[int]) -> str:
        return self.codec.decode(ids)
