"""Turn tokens into text one at a time: no character is ever split, and no text after a stop string is shown."""

from collections.abc import Callable, Sequence

from gptlab.errors import require


class TextStream:
    """The text of one row; `decode` is a tokenizer's. Text that a later token may still change is held back.

    The ids come after those of `prompt`: some tokenizers spell the first token of a text without its space.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stops: Sequence[str] = (), prompt: Sequence[int] = ()
    ) -> None:
        require("" not in stops, "stop", '""', "is empty, which is everywhere", "leave it out")
        self.decode, self.stops, self.prompt = decode, tuple(stops), list(prompt)
        self.begins = len(decode(self.prompt))
        self.ids: list[int] = []
        self.text = ""  # shown so far
        self.stopped = False

    def add(self, token: int) -> str:
        """Return the new text that is final after one more token."""
        self.ids.append(token)
        return self._show(self._decoded().rstrip("\ufffd"))  # the beginning of a character, perhaps

    def end(self) -> str:
        """Return the rest, when no more tokens come."""
        whole = self._decoded()
        return "" if self.stopped else self._emit(whole[: self._first_stop(whole)])

    def _decoded(self) -> str:
        return self.decode([*self.prompt, *self.ids])[self.begins :]

    def _show(self, text: str) -> str:
        at = self._first_stop(text)
        if at < len(text):
            self.stopped = True
            return self._emit(text[:at])
        held = max((n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return self._emit(text[: len(text) - held])

    def _emit(self, text: str) -> str:
        new, self.text = text[len(self.text) :], max(self.text, text, key=len)
        return new

    def _first_stop(self, text: str) -> int:
        found = [at for stop in self.stops if (at := text.find(stop)) >= 0]
        return min(found, default=len(text))
