"""Read an array of JSON objects one by one, in memory for a few of them, however long the array is."""

import json
import re
from collections.abc import Iterator
from typing import Any

from gptlab.data.text.tables import MOST_RECORD, Mistake, Row
from gptlab.errors import reason

CUT = 10  # characters: an error this close to the end may come from a word that goes on
_SPACE = re.compile(r"[ \t\r\n]*")


def is_array(head: str) -> bool:
    """Tell whether a text begins as an array of objects, or as an empty one."""
    return re.match(r"\s*\[\s*[{\]]", head) is not None


def array_items(blocks: Iterator[str], mistake: Mistake) -> Iterator[Row]:
    """Yield the items of the one array that the blocks spell.

    Raises UserError where they spell something else, or an item is larger than MOST_RECORD.
    """
    text = _Text(blocks)
    text.next()
    text.at += 1  # the bracket
    number = 0
    while (mark := text.next()) != "]":
        if number:
            if mark != ",":
                raise mistake(f"no comma or bracket follows record {number}", "mend it, or give a whole file")
            text.at += 1
            text.next()
        number += 1
        yield f"record {number}", _item(text, number, mistake)
    text.at += 1
    if text.next():
        raise mistake(f"goes on after its array of {number} records", "give one array, or JSON lines")


class _Text:
    """Hold what of the blocks is not read yet, from `at` on."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self.blocks, self.buffer, self.at = blocks, "", 0

    def grow(self, size: int) -> bool:
        """Take at least `size` more characters, if there are some; tell whether there were."""
        found = []
        while size > 0 and (block := next(self.blocks, "")):
            found.append(block)
            size -= len(block)
        self.buffer, self.at = self.buffer[self.at :] + "".join(found), 0
        return bool(found)

    def next(self) -> str:
        """Go to the next character that is no space, and return it; nothing at the end."""
        while True:
            match = _SPACE.match(self.buffer, self.at)
            assert match is not None
            self.at = match.end()
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.grow(1):
                return ""


def _item(text: _Text, number: int, mistake: Mistake) -> Any:
    todo = "mend or drop it"
    if text.next() != "{":
        raise mistake(f"record {number} is no object", "give an array of objects, or JSON lines")
    while True:
        try:
            value, text.at = json.JSONDecoder().raw_decode(text.buffer, text.at)
            return value
        except RecursionError as error:
            raise mistake(f"record {number} is nested too deep", todo) from error
        except json.JSONDecodeError as error:
            size = len(text.buffer) - text.at
            if size > MOST_RECORD:
                raise mistake(f"record {number} has more than {MOST_RECORD:,} characters", todo) from error
            goes_on = error.msg.startswith("Unterminated string") or error.pos >= len(text.buffer) - CUT
            if not goes_on or not text.grow(size):  # twice as much at a time: long records are not read over and over
                raise mistake(f"record {number} is not JSON ({reason(error)})", todo) from error
        except ValueError as error:  # a number of thousands of digits
            raise mistake(f"record {number} is not JSON ({reason(error)})", todo) from error
