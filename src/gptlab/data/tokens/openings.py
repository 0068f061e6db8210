"""Take prompts for samples from held-out text: the first words of some of its documents."""

import itertools
import re
from collections.abc import Iterator, Sequence

from gptlab.data.tokens.shards import TokenStream
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer

PROMPTS = 2
WORDS, CHARACTERS = 5, 48  # of a prompt, at most
LOOKED_AT = 512  # tokens of a document
TRIED = 100  # documents of each part of the text
_END_OF_SENTENCE = re.compile(r"[.!?…。！？]['\"”’»)\]]*\s+|[。！？]|\n\s*\n")


def openings(stream: TokenStream, tokenizer: Tokenizer, number: int = PROMPTS, is_cut: bool = False) -> list[str]:
    """Return the first words of documents in held-out tokens, the same ones for the same text and tokenizer.

    They are documents that are spread over the text; where there are fewer of them, sentences within them too; `is_cut`
    says that the documents are ends of documents. Left out is what the tokenizer does not spell, and what a config
    cannot hold: there may be fewer than `number`, or none.
    """
    starts = [int(start) for start in stream.document_starts(tokenizer.eot)]
    ends = dict(zip(starts, [*starts[1:], len(stream)], strict=True))
    found: list[str] = []
    for start in _spread(starts, len(stream), number):
        ids = [int(i) for i in stream[start : min(ends.get(start, len(stream)), start + LOOKED_AT)]]
        while ids and ids[0] in (tokenizer.eot, tokenizer.end_of_document):
            del ids[0]
        if tokenizer.eot in ids:
            ids = ids[: ids.index(tokenizer.eot)]
        prompt = first_words(tokenizer.decode(ids), within=is_cut or start not in ends)
        if prompt and prompt not in found and can_be_kept(tokenizer, prompt):
            found.append(prompt)
        if len(found) == number:
            break
    return found


def first_words(text: str, within: bool = False) -> str:
    """Return the first words of the first line of a text that has any; fewer of them if they are long.

    A text from `within` a document, such as the held-out end of a book, is taken from its next sentence on, or else
    from its next word.
    """
    text = text.strip()
    if within:
        end = _END_OF_SENTENCE.search(text, 0, len(text) - CHARACTERS)
        text = text[end.end() :] if end else text.partition(" ")[2]
    words = text.strip().partition("\n")[0].strip().split(" ")
    while len(words) > WORDS or (len(words) > 1 and len(" ".join(words)) > CHARACTERS):
        words.pop()
    return " ".join(words)[:CHARACTERS].strip()


def can_be_kept(tokenizer: Tokenizer, prompt: str) -> bool:
    """Return whether a tokenizer and a config.yaml give a prompt back as it is."""
    if not prompt.isprintable() or "\ufffd" in prompt or "${" in prompt:
        return False
    try:
        return tokenizer.decode(tokenizer.encode(prompt)) == prompt
    except UserError:
        return False


def _spread(starts: Sequence[int], tokens: int, number: int) -> Iterator[int]:
    """Yield starts of documents, the first ones of `number` equal parts, the second ones, and so on, then other
    places."""
    size = -(-len(starts) // number)
    parts = [starts[begin : begin + size] for begin in range(0, len(starts), size)]
    for together in itertools.islice(itertools.zip_longest(*parts), TRIED):
        yield from (start for start in together if start is not None)
    yield from (tokens * part // (number + 1) for part in range(1, number + 1))
