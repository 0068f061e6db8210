"""Write many texts at once, where each joins and leaves the batch at any step: continuous batching (Yu et al. 2022)."""

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gptlab.decoding.context import Model, distinct, read_again_at, read_padded, read_whole, require_ring
from gptlab.decoding.decoders import Decoder
from gptlab.decoding.generate import Key, draw, finite_rows
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.overflow import Ring
from gptlab.errors import UserError, require

MOST_READ = 4096  # tokens of new prompts, with their padding, that are read between two steps of the others


class Scored(NamedTuple):
    """One token of a text, and what the model says of it, in nats."""

    token: int
    logprob: float
    best: list[tuple[int, float]]  # the most probable tokens in its place, as many as are asked for


class Listener(Protocol):
    """Whoever waits for a text. It is called between two steps, and the batch waits for it."""

    def read(self, prompt: list[Scored]) -> None:
        """Take the tokens of the prompt but the first, which nothing predicts; called where `scores_prompt` is set."""

    def add(self, token: Scored) -> bool:
        """Take a new token; true ends the text."""

    def end(self, reason: str) -> None:
        """Take note of the end: `stop`, by a token that ends a text or by `add`, or `length`."""

    def fail(self, error: Exception) -> None:
        """Take note that the text cannot be finished."""


@dataclass(eq=False)
class Row:
    """A text that is asked for. What is drawn depends on `key` and the step (see `generate.draw_key`)."""

    prompt: Sequence[int]
    key: Key
    decoder: Decoder
    listener: Listener
    max_new_tokens: int
    ends: Collection[int] = ()  # each of them ends the text, and does not belong to it
    processors: LogitsProcessors = field(default_factory=LogitsProcessors)
    best: int = 0  # the number of most probable tokens that the listener is told with each token
    scores_prompt: bool = False  # whether it is told the log-probabilities of the prompt
    cancelled: bool = False  # set by anybody at any time: the text leaves the batch before the next step

    def __post_init__(self) -> None:
        require(len(self.prompt) > 0, "prompt", "", "is empty", "give at least one token")
        self.ids: list[int] = []  # the new ones
        self.how = repr((self.decoder, self.processors))  # rows with the same are drawn together

    @property
    def text(self) -> list[int]:
        """The ids of the prompt and the new ones."""
        return [*self.prompt, *self.ids]


class ContinuousBatch:
    """The texts that a model writes at once, at most `max_batch`, and those that wait; first come, first served.

    Each text gets the tokens that it would get alone, but for the rounding of sums in batches of another size. A text
    ends with `length` where it fills the context of `block_size` tokens; with `ring` it goes on, and each token sees
    `block_size` of them: the first `sinks`, and the last ones. One thread at a time may use this.
    """

    def __init__(
        self,
        gpt: Model,
        block_size: int,
        max_batch: int,
        n_vocab: int | None = None,
        ring: bool = False,
        sinks: int = 0,
    ) -> None:
        self.ring = Ring(block_size, sinks) if ring else None
        require_ring(gpt, self.ring)
        self.gpt, self.block_size, self.max_batch, self.n_vocab = gpt, block_size, max_batch, n_vocab
        self.waiting: deque[Row] = deque()
        self.running: list[Row] = []
        self._new_reader()

    def add(self, rows: Iterable[Row]) -> None:
        """Let rows wait for a place; those whose prompts do not fit into the context fail."""
        for row in rows:
            if len(row.prompt) > self.block_size:
                why = f"does not fit into the context of {self.block_size}"
                row.listener.fail(UserError("prompt", f"{len(row.prompt)} tokens", why, "shorten it"))
            else:
                self.waiting.append(row)

    @torch.no_grad()
    def step(self) -> bool:
        """Draw a token for every running text, and let waiting ones join; returns whether any text is left."""
        self._remove([i for i, row in enumerate(self.running) if row.cancelled])
        joining = self._joining()
        rows = [*self.running, *joining]
        try:
            parts = [self._reader.next([row.text for row in self.running])] if self.running else []
            parts += [self._reader.join([row.text for row in joining])] if joining else []
            drawn = self._draw(rows, torch.cat(parts)) if rows else []
        except Exception as error:  # such as too little memory: nothing that was read can be relied on
            self.running = []
            self._new_reader()
            for row in rows:
                row.listener.fail(error)
            return bool(self.waiting)
        self.running = rows
        self._remove([i for i, (row, token) in enumerate(zip(rows, drawn, strict=True)) if _has_ended(row, token)])
        return bool(self.running or self.waiting)

    def fail_all(self, error: Exception) -> int:
        """Give up all texts, and return how many there were."""
        rows = [row for row in [*self.running, *self.waiting] if not row.cancelled]
        self.running, self.waiting = [], deque()
        self._new_reader()
        for row in rows:
            row.listener.fail(error)
        return len(rows)

    def _new_reader(self) -> None:
        has_slots = hasattr(self.gpt, "new_slots")
        self._reader: _Slots | _Again = _Slots(self.gpt, self.block_size, self.ring) if has_slots else _Again(self.gpt)

    def _joining(self) -> list[Row]:
        """Take waiting rows for which there is a place, and score the prompts where that is asked for.

        Those that need no new token end here.
        """
        joining: list[Row] = []
        longest = 0
        while self.waiting and len(self.running) + len(joining) < self.max_batch:
            row = self.waiting[0]
            longest = max(longest, len(row.prompt))
            if joining and longest * (len(joining) + 1) > MOST_READ:
                break
            self.waiting.popleft()
            if row.cancelled:
                continue
            if self.ring is None:
                row.max_new_tokens = min(row.max_new_tokens, self.block_size - len(row.prompt))
            try:
                if row.scores_prompt:
                    row.listener.read(self._scored_prompt(row))
                if row.max_new_tokens <= 0:
                    row.listener.end("length")
                else:
                    joining.append(row)
            except Exception as error:
                row.listener.fail(error)
        return joining

    def _scored_prompt(self, row: Row) -> list[Scored]:
        idx = torch.tensor([list(row.prompt)], device=next(self.gpt.parameters()).device)
        logits = self.gpt(idx)[0, :-1, : self.n_vocab].float()
        return _scored(logits, idx[0, 1:], [row.best] * len(logits))

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> list[Scored | None]:
        """Return the next token of each row; None where its logits are not finite."""
        logits = logits[:, : self.n_vocab].float()
        finite = finite_rows(logits)
        if not finite.all():
            logits = logits.where(finite[:, None], 0.0)
        tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
        for how in dict.fromkeys(row.how for row in rows):
            of = [i for i, row in enumerate(rows) if row.how == how]
            group, own = [rows[i] for i in of], logits if len(of) == len(rows) else logits[of]
            own = group[0].processors(own, [row.prompt for row in group], [row.ids for row in group])
            tokens[of] = draw(group[0].decoder(own), [(*row.key, len(row.ids)) for row in group])
        scored = _scored(logits, tokens, [row.best for row in rows])
        return [each if ok else None for each, ok in zip(scored, finite.tolist(), strict=True)]

    def _remove(self, gone: Collection[int]) -> None:
        """Let rows leave the batch; the last ones move into their places."""
        if not gone:
            return
        left = len(self.running) - len(gone)
        last = [i for i in range(left, len(self.running)) if i not in gone]
        order = [last.pop() if i in gone else i for i in range(left)]
        self.running = [self.running[i] for i in order]
        self._reader.keep(order)


def _has_ended(row: Row, drawn: Scored | None) -> bool:
    """Give a row its new token, and return whether it has ended; a listener that fails ends its own text alone."""
    try:
        if drawn is None:
            raise RuntimeError("the model has diverged: its logits are not finite")
        if drawn.token in row.ends:
            row.listener.end("stop")
            return True
        row.ids.append(drawn.token)
        stopped = row.listener.add(drawn)
        if stopped or len(row.ids) == row.max_new_tokens:
            row.listener.end("stop" if stopped else "length")
            return True
        return False
    except Exception as error:
        row.listener.fail(error)
        return True


def _scored(logits: Tensor, tokens: Tensor, best: Sequence[int]) -> list[Scored]:
    """Return tokens (B,) with their log-probabilities in logits (B, V), and the best[i] most probable of each row."""
    logprobs = logits.log_softmax(-1)
    own = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
    most = min(max(best, default=0), logits.shape[-1])
    ranked: list[list[tuple[int, float]]] = [[] for _ in own]
    if most:
        top = logprobs.topk(most)
        both = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ranked = [list(zip(*each, strict=True))[:n] for each, n in zip(both, best, strict=True)]
    return [Scored(*each) for each in zip(tokens.tolist(), own, ranked, strict=True)]


class _Slots:
    """The running texts in the slots of a cache: each token is read once."""

    def __init__(self, gpt: Model, block_size: int, ring: Ring | None) -> None:
        self.gpt, self.slots = gpt, gpt.new_slots(**(ring.options if ring else {}))
        self.device = next(gpt.parameters()).device
        self.read_again = read_again_at(gpt, block_size)

    def join(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (B, V) of what follows new texts; equal ones are read once."""
        each, numbers = distinct(texts)
        logits, cache = read_padded(self.gpt, each, max(map(len, each)))
        self.slots.put(cache, numbers)
        return logits[numbers]

    def next(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (B, V) of what follows the running texts, each of which has one token more than before."""
        last = torch.tensor([[text[-1]] for text in texts], device=self.device)
        logits: Tensor = self.gpt(last, cache=self.slots)[:, -1]
        again = [i for i, text in enumerate(texts) if len(text) == self.read_again]
        if again:
            whole, cache = read_padded(self.gpt, [texts[i] for i in again], len(texts[again[0]]))
            self.slots.put(cache, range(len(again)), again)
            logits[again] = whole
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the running texts, in this order."""
        self.slots.select(torch.tensor(rows, dtype=torch.long))


class _Again:
    """The running texts of a model without slots: each is read again for every token."""

    def __init__(self, gpt: Model) -> None:
        self.gpt = gpt

    def join(self, texts: Sequence[Sequence[int]]) -> Tensor:
        return read_whole(self.gpt, texts)

    next = join

    def keep(self, rows: Sequence[int]) -> Any:
        """Nothing of the texts is kept."""
