"""Collect the texts that an engine writes for a request, and pass them on as they grow."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

from gptlab.app.api.asked import Asked, Prompt, Served
from gptlab.decoding.continuous import Row, Scored
from gptlab.decoding.generate import draw_key
from gptlab.decoding.streaming import TextStream
from gptlab.tokenizers import Tokenizer


class Token(NamedTuple):
    """A token of an answer: what the model says of it, and where in the answer's text it begins."""

    id: int
    logprob: float | None  # None for the first one, which nothing predicts
    best: list[tuple[int, float]]
    offset: int  # in characters; of a token that begins within a character, that of the character


@dataclass
class Piece:
    """A new part of one answer; `reason` is that of its end."""

    number: int
    text: str
    tokens: list[Token] = field(default_factory=list)
    reason: str | None = None


class Answer:
    """One text, which the engine's thread writes; `tell` takes each new piece, and the error that ends it."""

    def __init__(self, number: int, prompt: Prompt, asked: Asked, tokenizer: Tokenizer, job: Job) -> None:
        self.number, self.prompt, self.asked, self.tokenizer, self.job = number, prompt, asked, tokenizer, job
        ids = prompt.ids[prompt.before :]
        self.stream = TextStream(tokenizer.decode, asked.stop, ids)
        self.begins = not ids  # whether the next token begins the text
        self.shown = prompt.text if asked.echo else ""  # before the new text
        self._offsets = Offsets(len(self.shown))
        self.tokens: list[Token] = []
        self.reason: str | None = None
        self.logprob = 0.0  # of all new tokens
        self.count = 0  # of them
        self.sent = 0  # tokens that were passed on
        self.echoed = not asked.echo

    def read(self, prompt: list[Scored]) -> None:
        """Take what the model says of the tokens of the prompt, for an echo."""
        offsets = Offsets()
        scored = [Scored(self.prompt.ids[0], 0.0, []), *prompt][self.prompt.before :]
        for place, each in enumerate(scored):
            logprob = each.logprob if place + self.prompt.before > 0 else None
            at = offsets.of(spelled(self.tokenizer, each.token, place == 0))
            self.tokens.append(Token(each.token, logprob, each.best, at))

    def add(self, token: Scored) -> bool:
        """Take a new token; returns whether a stop string has come."""
        at = self._offsets.of(spelled(self.tokenizer, token.token, self.begins))
        self.tokens.append(Token(token.token, token.logprob, token.best, at))
        self.begins = False
        self.logprob += token.logprob
        self.count += 1
        self._tell(self.stream.add(token.token))
        return self.stream.stopped

    def end(self, reason: str) -> None:
        """Take note of the end."""
        new, self.reason = self.stream.end(), reason
        if self.stream.stopped:
            self.tokens = [each for each in self.tokens if each.offset < len(self.text)]
        self._tell(new)

    def fail(self, error: Exception) -> None:
        """Take note that the text cannot be finished."""
        self.job.tell(error)

    @property
    def text(self) -> str:
        """The text so far, with the prompt, if that is echoed."""
        return self.shown + self.stream.text

    def _tell(self, new: str) -> None:
        """Pass on a new piece, where anybody waits for it: the tokens whose text has come, at the end all."""
        if not self.asked.stream and self.reason is None:
            return
        text, self.echoed = new if self.echoed else self.shown + new, True
        if not text and self.reason is None:
            return
        last = len(self.tokens) if self.reason else self.sent
        while last < len(self.tokens) and self.tokens[last].offset < len(self.text):
            last += 1
        piece = Piece(self.number, text, self.tokens[self.sent : last], self.reason)
        self.sent = last
        self.job.tell(piece)


class Offsets:
    """Count the characters of a text whose tokens come one after another."""

    def __init__(self, at: int = 0) -> None:
        self._at, self._decoder = at, codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, spelled: bytes) -> int:
        """Return where the next token begins: one that goes on with a character, where that does."""
        if spelled and spelled[0] & 0xC0 != 0x80:  # what is left of a character before it stays as it is
            self._at += len(self._decoder.decode(b"", final=True))
        at = self._at
        self._at += len(self._decoder.decode(spelled))
        return at


def spelled(tokenizer: Tokenizer, token: int, begins: bool = False) -> bytes:
    """Return what a token adds to a text, which it begins or does not; nothing where decoding leaves it out."""
    left_out = tokenizer.special_token(token) is not None and not tokenizer.decode([token])
    return b"" if left_out else tokenizer.decode_part([token], begins)


class Job:
    """The answers to one request. Made in the event loop, where `pieces` waits for what the engine's thread tells."""

    def __init__(self, asked: Asked, served: Served) -> None:
        self.asked = asked
        self._loop, self._told = asyncio.get_running_loop(), asyncio.Queue[Piece | Exception]()
        self.answers: list[Answer] = []
        self.rows: list[Row] = []
        for prompt in asked.prompts:
            for sample in range(asked.best_of):
                answer = Answer(len(self.answers), prompt, asked, served.tokenizer, self)
                row = Row(
                    prompt.ids,
                    draw_key(asked.seed, prompt.text, sample),
                    asked.decoder,
                    answer,
                    asked.max_tokens,
                    asked.ends,
                    asked.processors,
                    asked.logprobs or 0,
                    asked.echo and asked.logprobs is not None,
                )
                self.answers.append(answer)
                self.rows.append(row)

    def tell(self, what: Piece | Exception) -> None:
        """Pass on what is new; called by any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._told.put_nowait, what)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of all answers as they come; raises the error of one that cannot be finished."""
        left = len(self.answers)
        while left:
            told = await self._told.get()
            if isinstance(told, Exception):
                raise told
            left -= told.reason is not None
            yield told

    def best(self) -> list[Answer]:
        """Return the `n` answers to each prompt: of `best_of`, those with the highest mean log-probability."""
        found: list[Answer] = []
        for first in range(0, len(self.answers), self.asked.best_of):
            ranked = self.answers[first : first + self.asked.best_of]
            if self.asked.best_of > self.asked.n:
                ranked = sorted(ranked, key=lambda each: -each.logprob / max(each.count, 1))
            found += ranked[: self.asked.n]
        return found

    def usage(self) -> dict[str, int]:
        """Return the numbers of tokens that were read and drawn; the token that ends a text is not counted."""
        read, drawn = sum(len(each.ids) for each in self.asked.prompts), sum(each.count for each in self.answers)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
