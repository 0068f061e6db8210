"""Shape answers as OpenAI's API has them: completions and chats, whole and in chunks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from gptlab.app.api.answers import Job, Piece, Token, spelled
from gptlab.tokenizers import Tokenizer

Record = dict[str, Any]


class Completions:
    """The shapes of /v1/completions."""

    prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, tokenizer: Tokenizer, job: Job) -> None:
        self.tokenizer, self.job = tokenizer, job
        self.head: Record = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self) -> Record:
        """Return all answers at their end."""
        choices = [
            self.choice(Piece(number, each.text, each.tokens, each.reason))
            for number, each in enumerate(self.job.best())
        ]
        return {**self.head, "object": self.whole_kind, "choices": choices, "usage": self.job.usage()}

    def chunk(self, *choices: Record, usage: bool = False) -> Record:
        """Return a chunk of a stream; the one with the usage has no choices."""
        more = {"usage": self.job.usage() if usage else None} if self.job.asked.stream_usage else {}
        return {**self.head, "object": self.chunk_kind, "choices": list(choices), **more}

    def first(self) -> list[Record]:
        """Return the choices that a stream begins with."""
        return []

    def part(self, piece: Piece) -> list[Record]:
        """Return the choices of a stream that a new piece makes."""
        return [self.choice(piece)]

    def choice(self, piece: Piece) -> Record:
        """Return one answer, or a piece of it."""
        found = None if self.job.asked.logprobs is None else self.logprobs(piece.tokens)
        return {"text": piece.text, "index": piece.number, "logprobs": found, "finish_reason": piece.reason}

    def logprobs(self, tokens: Sequence[Token]) -> Record:
        """Return what the model says of tokens: of each, and of the most probable ones in its place and of itself."""
        return {
            "tokens": [self.spelled(each.id) for each in tokens],
            "token_logprobs": [each.logprob for each in tokens],
            "top_logprobs": [
                None if each.logprob is None else self._top([*each.best, (each.id, each.logprob)]) for each in tokens
            ],
            "text_offset": [each.offset for each in tokens],
        }

    def _top(self, best: Sequence[tuple[int, float]]) -> dict[str, float]:
        found: dict[str, float] = {}
        for token, logprob in best:
            found.setdefault(self.spelled(token), logprob)
        return found

    def spelled(self, token: int) -> str:
        """Return one token by itself; bytes that are no whole character are written as OpenAI does, bytes:\\xe2."""
        found = spelled(self.tokenizer, token)
        if not found:
            return self.tokenizer.special_token(token) or ""
        try:
            return found.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


class Chats(Completions):
    """The shapes of /v1/chat/completions."""

    prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, piece: Piece) -> Record:
        """Return one answer."""
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": piece.number, "message": message, **self._rest(piece), "finish_reason": piece.reason}

    def first(self) -> list[Record]:
        """Return the choices that say who speaks."""
        delta = {"role": "assistant", "content": ""}
        return [
            {"index": each.number, "delta": delta, "logprobs": None, "finish_reason": None} for each in self.job.answers
        ]

    def part(self, piece: Piece) -> list[Record]:
        """Return a piece of an answer, and its end in a choice of its own."""
        index, found = {"index": piece.number}, []
        if piece.text or piece.tokens:
            found.append({**index, "delta": {"content": piece.text}, **self._rest(piece), "finish_reason": None})
        if piece.reason is not None:
            found.append({**index, "delta": {}, "logprobs": None, "finish_reason": piece.reason})
        return found

    def _rest(self, piece: Piece) -> Record:
        if self.job.asked.logprobs is None:
            return {"logprobs": None}
        content = []
        for each in piece.tokens:
            top = [self._shown(token, logprob) for token, logprob in each.best]
            content.append({**self._shown(each.id, each.logprob), "top_logprobs": top})
        return {"logprobs": {"content": content, "refusal": None}}

    def _shown(self, token: int, logprob: float | None) -> Record:
        return {"token": self.spelled(token), "logprob": logprob, "bytes": list(spelled(self.tokenizer, token))}
