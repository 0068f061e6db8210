"""Prompts for samples come from the held-out documents, and from nowhere else."""

import shutil
from pathlib import Path

import pytest

from gptlab.data.text.sources import Files
from gptlab.data.tokens.openings import first_words, openings
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.tokenizers.base import TokenizerConfig
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte


def corpus_of(held_out: list[str], tokenizer: TokenizerConfig | None = None, apart: bool = True) -> Corpus:
    """Return the corpus of these held-out documents, and of others to train on."""
    for folder, texts in {"train": [f"Never {i} is one of these. " * 9 for i in range(9)], "val": held_out}.items():
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
        for i, text in enumerate(texts):
            (Path(folder) / f"{i:03d}.txt").write_text(text)
    data = Files(files=["train/*.txt"], val_files=["val/*.txt"]) if apart else Files(files=["val/*.txt"])
    return prepare(data, tokenizer or Byte())


def opened(corpus: Corpus, number: int = 2) -> list[str]:
    return openings(corpus.val, corpus.tokenizer, number, corpus.val_is_cut)


def test_the_first_words_of_documents_spread_over_the_text() -> None:
    texts = [f"\n\nDocument {i} begins like this.\nAnd goes on. " + "More. " * 99 for i in range(10)]
    asked = ["Document 0 begins like this.", "Document 5 begins like this."]
    for tokenizer in (Byte(), BPE(vocab_size=300)):
        assert opened(corpus_of(texts, tokenizer)) == asked
    assert opened(corpus_of(texts), 3) == ["Document 0 begins like this.", *(asked[0].replace("0", i) for i in "48")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  one, two three four five six seven", "one, two three four five"),
        ("One\ntwo", "One"),
        ("A" * 60 + " b", "A" * 48),
        ("Extraordinarily-long-words stand-here-together but few", "Extraordinarily-long-words stand-here-together"),
        ("\n \n", ""),
    ],
)
def test_words_by_hand(text: str, words: str) -> None:
    assert first_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rning he went. “Well,” she said. " + "And so on, and so on. " * 9, "“Well,” she said. And so"),
        ("ends in the middle of it", "in the middle of it"),
        ("rning\n\nChapter 2\n\n" + "And so on. " * 9, "Chapter 2"),
        ("lonely", ""),
    ],
)
def test_words_within_a_document_by_hand(text: str, words: str) -> None:
    assert first_words(text, within=True) == words


def test_one_book_gives_as_many_as_many_documents() -> None:
    """Of its end, which begins in the middle of a sentence: two different sentences, from their first words."""
    book = " ".join(f"Then number {i} came along the road and sat down with the others." for i in range(999))
    first, second = opened(corpus_of([book], apart=False))
    held_out = book[int(0.9 * len(book)) :]
    for prompt in (first, second):
        assert prompt.startswith("Then number ") and prompt.endswith(" came along") and prompt in held_out
    assert first != second


def test_what_no_config_can_hold_is_left_out() -> None:
    """A config.yaml with `${` is refused when it is read, and a control character would end up on a terminal."""
    texts = ["Look at ${oc.env:HOME} here.", "A bell\a rings here now.", "Good words are these here.", "x\x1b[2Jy z"]
    assert opened(corpus_of([text + " More. " * 50 for text in texts]), 1) == ["Good words are these here."]
    assert opened(corpus_of(["${x} " * 200]), 1) == []
