"""Let lm-eval ask the model of a run: log-likelihoods of texts, and texts that it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Decoder, Greedy, Sample
from gptlab.decoding.generate import draw_key
from gptlab.decoding.loglikelihood import loglikelihoods
from gptlab.decoding.texts import continue_prompts
from gptlab.errors import require
from gptlab.evaluation.task_scores import Asking
from gptlab.tokenizers import Tokenizer

Ids = list[int]


class LanguageModel(TemplateLM):  # type: ignore[misc]
    """The model of a run, as lm-eval's own adapter of Hugging Face models would answer for the exported one.

    Texts that are too long lose their beginnings, as there; a text that spells a special token is ordinary text, but
    for the tokens of the chat template.
    """

    def __init__(self, gpt: Any, tokenizer: Tokenizer, asking: Asking) -> None:
        super().__init__()
        self.gpt, self.codec, self.asking = gpt, tokenizer, asking

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return next(iter(self.codec.ends), self.codec.eot)

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without a context."""
        return self.codec.eot

    @property
    def max_length(self) -> int:
        """The number of ids that are read at once."""
        return self.asking.block_size

    @property
    def tokenizer_name(self) -> str:
        """The name of the tokenizer, and thus of its chat template."""
        return str(self.asking.run)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Return the ids of a text, with bos where the tokenizer puts it before every text."""
        if self.asking.template is not None:
            return self.asking.template.ids(string)
        before = [] if add_special_tokens is False else self.codec.start
        return [*before, *self.codec.encode(string)]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the Jinja text of the template that is used."""
        return "" if self.asking.template is None else self.asking.template.text

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation up to the next answer, or to the end of one that was begun."""
        assert self.asking.template is not None
        if add_generation_prompt:
            return self.asking.template.prompt_text(chat_history)
        return self.asking.template.prompt_text(chat_history[:-1], begun=chat_history[-1]["content"])

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, Ids, Ids]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        for text, _, continuation in requests:
            require(bool(continuation), "tasks", self.asking.task, f"asks for no token after {text}", "mend the task")
        self.asking.require_fits([len(continuation) for *_, continuation in requests], "text", self.max_length)
        pairs = [(context, continuation) for _, context, continuation in requests]
        found = loglikelihoods(self.gpt, pairs, self.max_length, self.asking.batch_size)
        self.asking.require_finite([logprob for logprob, _ in found])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of each whole text, in windows that do not overlap, the last one but full."""
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(number)
        totals = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[number] += logprob
        return totals

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each context, until it ends the text or one of the `until` strings."""
        alike: dict[str, list[int]] = {}
        for number in sorted(range(len(requests)), key=lambda i: -len(self.tok_encode(requests[i].args[0]))):
            alike.setdefault(repr(requests[number].args[1]), []).append(number)
        texts: dict[int, str] = {}
        size = self.asking.batch_size
        for numbers in alike.values():
            for at in range(0, len(numbers), size):
                part = numbers[at : at + size]
                asked = [(requests[i].args[0], requests[i].idx) for i in part]
                texts |= dict(zip(part, self._written(asked, requests[part[0]].args[1]), strict=True))
        return [texts[number] for number in range(len(requests))]

    def _written(self, asked: Sequence[tuple[str, int]], settings: dict[str, Any]) -> list[str]:
        """Return what follows each (text, number), with lm-eval's settings of a generation."""
        given = normalize_gen_kwargs(settings, self.asking.max_new_tokens)
        until, most = [each for each in given.pop("until") if each], given.pop("max_gen_toks")
        draws, temperature = given.pop("do_sample"), given.pop("temperature", 0.0)
        why = f"asks to generate with {', '.join(given)}, which is not known here"
        require(not given, "tasks", self.asking.task, why, "leave it out of the task's generation_kwargs")
        room = self.max_length - most
        why = f"writes {most} tokens, which leaves no room for a prompt in the context of {self.max_length}"
        require(room > 0, "tasks", self.asking.task, why, "set max_gen_toks in its generation_kwargs")
        template = self.asking.template
        ends = self.codec.ends if template is None else template.ends
        limits = Limits(most, self.max_length, ends, self.codec.n_vocab)
        decoder: Decoder = Sample(temperature=temperature) if draws else Greedy()
        prompts = [text for text, _ in asked]
        keys = [draw_key(0, text, number) for text, number in asked]
        found = continue_prompts(self.gpt, _Prompts(self, room), prompts, keys, decoder, limits, stop=until)
        return [each.text for each in found]


@dataclass(frozen=True)
class _Prompts:
    """A codec whose prompts are the last ids of a text, as many as there is room for."""

    lm: LanguageModel
    room: int

    @property
    def n_vocab(self) -> int:
        return self.lm.codec.n_vocab

    def encode(self, text: str) -> Ids:
        return self.lm.tok_encode(text)[-self.room :] or [self.lm.prefix_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        return self.lm.codec.decode(ids)
