"""Encode text by GPT-2's words: they are found by array operations, and the ids of those met before are looked up."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tiktoken

Array = np.ndarray[Any, np.dtype[Any]]
EncodePieces = Callable[[list[bytes]], tuple[Array, Array]]

LETTER, NUMBER, OTHER, SPACE, BORDER = 1, 2, 4, 8, 16  # classes of characters; a border stands around each text
EDGE = b"\xff"  # the byte of a border, which UTF-8 does not have
AT_ONCE = 1 << 16  # words that are looked up at once, so that what is computed of them stays in the processor's cache
PROBES = 4  # places of a table where a word may stand
MOST_IDS = 1 << 21  # ids that are remembered
WIDTHS = {1: 1 << 17, 2: 1 << 18, 4: 1 << 17}  # places of the tables for words of so many numbers of 8 bytes
PAGE = 1 << 12  # characters whose classes are looked up at once
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)  # odd, of random bits
_FIRST_BYTES = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
_APOSTROPHE, _BLANK = ord("'"), ord(" ")


class WordEncoder:
    """Encode texts in the ids that `encode_pieces` gives for each of their words, which it is asked for once.

    `encode_pieces` takes words in UTF-8 and returns their ids, joined, and how many each has. Words of up to 31 bytes
    are remembered, until a table of them is full and is emptied, so that memory is bounded (by some 35 MB).
    """

    def __init__(self, encode_pieces: EncodePieces) -> None:
        self.encode_pieces = encode_pieces
        self.tables: list[_Table] = []
        self.ids, self.kept = np.empty(0, np.uint32), 0

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Return the ids of each text, (N,) uint32; raises UnicodeEncodeError where one has a lone surrogate."""
        self._make_room()
        data = EDGE + b"".join([text.encode() + EDGE for text in texts])
        starts = np.flatnonzero(word_starts(data))
        borders = np.flatnonzero(np.frombuffer(data, np.uint8)[starts] == EDGE[0])
        ends = np.append(starts[1:], len(data))
        longest = 8 * max(WIDTHS)
        numbers = np.ndarray(
            len(data) + longest - 7, "<u8", data + bytes(longest), 0, (1,)
        )  # the 8 bytes at each place
        blocks = [slice(i, i + AT_ONCE) for i in range(0, len(starts), AT_ONCE)]
        found = [self._ids(data, numbers, starts[block], ends[block]) for block in blocks]
        every = np.concatenate([ids for ids, _ in found])
        until = np.cumsum(np.concatenate([counts for _, counts in found]))[borders].tolist()
        return [every[start:stop] for start, stop in itertools.pairwise(until)]

    def _make_room(self) -> None:
        """Forget the words of a table that is full, and all of them where there are too many ids."""
        if self.kept > MOST_IDS:
            self.tables, self.ids, self.kept = [], np.empty(0, np.uint32), 0
        for i, (width, places) in enumerate(WIDTHS.items()):
            if not self.tables[i:] or self.tables[i].is_full:
                self.tables[i : i + 1] = [_Table(width, places)]
                if width == 1:
                    self.tables[i].add([np.array([EDGE[0] | 1 << 56], np.uint64)], np.zeros(1, np.int64))  # no ids

    def _ids(self, data: bytes, numbers: Array, starts: Array, ends: Array) -> tuple[Array, Array]:
        """Return the ids of words, joined, and how many each has."""
        where = np.full(len(starts), -1)  # place of the ids << 32 | number of ids
        least, keyed = 0, []
        for table in self.tables:
            most = 8 * table.width - 1
            members = np.flatnonzero((ends - starts >= least) & (ends - starts <= most))
            keys = _keys(numbers, starts[members], ends[members] - starts[members], table.width)
            where[members] = table.find(keys)
            keyed.append((members, keys))
            least = most + 1
        if len(missing := np.flatnonzero(where < 0)):
            number_of: dict[bytes, int] = {}
            spans = zip(starts[missing].tolist(), ends[missing].tolist(), strict=True)
            which = np.array([number_of.setdefault(data[start:end], len(number_of)) for start, end in spans])
            where[missing] = self._keep(*self.encode_pieces(list(number_of)))[which]
            first = np.zeros(len(starts), bool)
            first[missing[np.unique(which, return_index=True)[1]]] = True
            for table, (members, keys) in zip(self.tables, keyed, strict=True):
                chosen = np.flatnonzero(first[members])
                table.add([key[chosen] for key in keys], where[members[chosen]])
        counts = where & 0xFFFFFFFF
        until = np.cumsum(counts)
        return self.ids[np.repeat((where >> 32) - until + counts, counts) + np.arange(until[-1])], counts

    def _keep(self, ids: Array, counts: Array) -> Array:
        """Remember ids, and return for each word where they are."""
        if self.kept + len(ids) > len(self.ids):
            more = np.empty(2 * (self.kept + len(ids)), np.uint32)
            more[: self.kept] = self.ids[: self.kept]
            self.ids = more
        self.ids[self.kept : self.kept + len(ids)] = ids
        places = self.kept + np.cumsum(counts) - counts
        self.kept += len(ids)
        return places << 32 | counts


class _Table:
    """A hash table with open addressing whose keys have `width` numbers each; several are looked up at once."""

    def __init__(self, width: int, places: int) -> None:
        self.width, self.size, self.shift = width, 0, np.uint64(65 - places.bit_length())
        self.keys = [np.zeros(places + PROBES, np.uint64) for _ in range(width)]
        self.values = np.zeros(places + PROBES, np.int64)

    @property
    def is_full(self) -> bool:
        return self.size > len(self.values) // 2

    def find(self, keys: list[Array]) -> Array:
        """Return the value of each key, (K,); -1 where there is none."""
        place = self._first_place(keys)
        values = self.values[place]
        left = np.flatnonzero(~self._are_at(place, keys))
        values[left] = -1
        for probe in range(1, PROBES):
            if not len(left):
                break
            there = place[left] + probe
            found = self._are_at(there, [key[left] for key in keys])
            values[left[found]] = self.values[there[found]]
            left = left[~found]
        return values

    def add(self, keys: list[Array], values: Array) -> None:
        """Add keys that are not there and differ; those whose places are all taken are left out."""
        left, place = np.arange(len(values)), self._first_place(keys)
        for probe in range(PROBES):
            there = place[left] + probe
            _, first = np.unique(there, return_index=True)
            first = first[self.keys[-1][there[first]] == 0]
            for column, key in zip(self.keys, keys, strict=True):
                column[there[first]] = key[left[first]]
            self.values[there[first]] = values[left[first]]
            self.size += len(first)
            left = np.delete(left, first)

    def _first_place(self, keys: list[Array]) -> Array:
        mixed: Array = keys[0] * np.uint64(_FACTORS[0])
        for key, factor in zip(keys[1:], _FACTORS[1:], strict=False):
            mixed = mixed + key * np.uint64(factor)
        return (mixed >> self.shift).view(np.int64)

    def _are_at(self, place: Array, keys: list[Array]) -> Array:
        same: Array = self.keys[0][place] == keys[0]
        for column, key in zip(self.keys[1:], keys[1:], strict=True):
            same &= column[place] == key
        return same


def _keys(numbers: Array, starts: Array, lengths: Array, width: int) -> list[Array]:
    """Return the bytes of words as `width` numbers each, with their length in the last byte, which is free."""
    keys = [numbers[starts + at] for at in range(0, 8 * width, 8)]
    for column in range(width // 2, width):
        keys[column] &= _FIRST_BYTES[np.clip(lengths - 8 * column, 0, 8)]
    keys[-1] |= lengths.astype(np.uint64) << np.uint64(56)
    return keys


def word_starts(data: bytes) -> Array:
    """Return whether a word of GPT-2 starts at each byte, (N,), of texts in UTF-8 with a border around each.

    The words are those of tiktoken's `r50k_base`: contractions such as 's; letters, numbers or other characters with at
    most one blank before them; and other white space, without its last character where something else follows.
    """
    text, classes = np.frombuffer(data, np.uint8), np.frombuffer(bytearray(data.translate(_CLASSES)), np.uint8)
    long, sizes = _classify_long(text, classes)
    space, solid = classes == SPACE, classes < SPACE
    starts = classes == BORDER  # also where a text is empty
    starts[1:] |= (classes[1:] != classes[:-1]) & ~((text[:-1] == _BLANK) & solid[1:])
    starts[1:-1] |= space[1:-1] & space[:-2] & solid[2:]  # the last of several
    wide = space[long]  # white space of several bytes, of which the last one was taken for the last character
    for size in (2, 3):
        here = long[wide & (sizes == size)]
        starts[here + size - 1] = False
        starts[here] |= solid[here + size]
    _divide_contractions(text, starts)
    return starts


def _divide_contractions(text: Array, starts: Array) -> None:
    """Let 's, 'd, 'm, 't, 'll, 've and 're be words, where a word starts with the apostrophe."""
    at = np.flatnonzero(text == _APOSTROPHE)
    at = at[starts[at]]
    one, two = text[at + 1], text[np.minimum(at + 2, len(text) - 1)]
    short = np.isin(one, list(b"sdmt"))
    long = ((one == ord("l")) & (two == ord("l"))) | (np.isin(one, list(b"vr")) & (two == ord("e")))
    starts[at[short | long] + 1] = False
    starts[at[short] + 2] = starts[at[long] + 3] = True


def _classify_long(text: Array, classes: Array) -> tuple[Array, Array]:
    """Fill in the classes of characters of several bytes, for each of their bytes; return where they are, and sizes."""
    at = np.flatnonzero((text >= 0xC0) & (text != EDGE[0]))
    first, last = text[at], len(text) - 1
    sizes = 2 + (first >= 0xE0) + (first >= 0xF0)
    code = first.astype(np.int64) & (0x7F >> sizes)
    for i in range(1, 4):
        following = text[np.minimum(at + i, last)] & 0x3F
        code = np.where(i < sizes, code << 6 | following, code)
    found = _classes_of(code)
    for i in range(4):
        inside = i < sizes
        classes[at[inside] + i] = found[inside]
    return at, sizes


def _classes_of(code: Array) -> Array:
    """Return the classes of characters beyond ASCII, as the library that applies the pattern has them."""
    found = _ALL_CLASSES[code]
    for page in np.unique(code[found == 0] // PAGE).tolist():
        every = np.arange(page * PAGE, (page + 1) * PAGE)
        _ALL_CLASSES[every] = OTHER
        every = every[(every < 0xD800) | (every > 0xDFFF)]  # surrogates are no characters
        text = every.astype("<u4").tobytes().decode("utf-32-le")
        for kind, encoding in _class_encodings().items():
            members = encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint8).tobytes().decode()
            _ALL_CLASSES[np.frombuffer(members.encode("utf-32-le"), "<u4")] = kind
    return _ALL_CLASSES[code]


@functools.cache
def _class_encodings() -> dict[int, tiktoken.Encoding]:
    """Return an encoding for each class, which keeps the characters of this class and drops all others."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    patterns = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}
    return {
        kind: tiktoken.Encoding("gptlab", pat_str=p, mergeable_ranks=ranks, special_tokens={})
        for kind, p in patterns.items()
    }


def _class_of_byte(byte: int) -> int:
    letter = chr(byte)
    if byte == EDGE[0]:
        return BORDER
    if letter in "\t\n\v\f\r ":
        return SPACE
    return LETTER if letter.isalpha() else NUMBER if letter.isdigit() else OTHER


_CLASSES = bytes(map(_class_of_byte, range(256)))  # those of ASCII
_ALL_CLASSES = np.zeros(0x110000, np.uint8)  # filled in as far as characters are met; 0: not yet
