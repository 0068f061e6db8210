from pathlib import Path

import numpy as np
import pytest

from gptlab.data.quality import copies, documents, hard_characters, id_counts, longest, overlap
from gptlab.data.tokens.shards import Shard, TokenStream
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char

EOT = 99


@pytest.fixture
def stream(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Makes a stream of ids, in shards of 50."""

    def stream(ids: list[int]) -> TokenStream:
        shards = []
        for i in range(0, len(ids), 50):
            path = tmp_path / f"{len(list(tmp_path.glob('*.bin')))}.bin"
            np.array(ids[i : i + 50], np.uint16).tofile(path)
            shards.append(Shard(path, "uint16", len(ids[i : i + 50])))
        return TokenStream(shards)

    return stream


def joined(*texts: list[int]) -> list[int]:
    return [token for text in texts for token in (EOT, *text)]


def test_counts_of_ids_and_of_what_is_none(stream) -> None:  # type: ignore[no-untyped-def]
    counts = id_counts([stream([0, 1, 1, 4]), stream([1, 5, 700])], 5)
    assert counts.tolist() == [1, 3, 0, 0, 1, 2]


def test_documents_are_what_stands_between_separators(stream) -> None:  # type: ignore[no-untyped-def]
    every = [[1, 2, 3], list(range(60)), [7]]
    assert [ids.tolist() for ids in documents(stream(joined(*every)), EOT)] == every
    assert [ids.tolist() for ids in documents(stream([5, 6, EOT, 8]), EOT)] == [[5, 6], [8]]  # nanoGPT begins without


def test_copies_are_counted_across_streams(stream) -> None:  # type: ignore[no-untyped-def]
    train, val = stream(joined([1, 2], [3, 4, 5], [1, 2])), stream(joined([3, 4, 5], [3, 4]))
    assert copies([train, val], EOT) == (2, 5)


def test_overlap_against_sets_of_tuples(stream) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    train, val = ([rng.integers(0, 4, rng.integers(1, 30)).tolist() for _ in range(30)] for _ in range(2))
    for n in (1, 3, 6):
        grams = [{tuple(d[i : i + n]) for d in text for i in range(len(d) - n + 1)} for text in (train, val)]
        with_any = sum(any(tuple(d[i : i + n]) in grams[0] for i in range(len(d) - n + 1)) for d in val)
        found = overlap([stream(joined(*train[:10])), stream(joined(*train[10:]))], stream(joined(*val)), EOT, n)
        assert (found.ngrams, found.ngrams_seen) == (len(grams[1]), len(grams[1] & grams[0]))
        assert (found.documents, found.documents_seen) == (30, with_any)


def test_an_ngram_on_the_border_of_two_blocks_is_seen(stream, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("gptlab.data.quality.BLOCK", 4)
    text = list(range(20))
    found = overlap([stream(joined(text))], stream(joined(text)), EOT, 5)
    assert found.ngrams == found.ngrams_seen == 16


@pytest.mark.parametrize("most", [3, 1 << 20])
def test_small_parts_and_blocks_change_nothing(stream, monkeypatch: pytest.MonkeyPatch, most: int) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("gptlab.data.partitions.MOST", most)
    monkeypatch.setattr("gptlab.data.quality.BLOCK", min(most, 1 << 20))
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 3, rng.integers(1, 9)).tolist() for _ in range(60)]
    train, val = texts[:40], texts[40:]
    repeated = [text for i, text in enumerate(texts) if text in texts[:i]]
    streams = [stream(joined(*train)), stream(joined(*val))]
    assert copies(streams, EOT) == (len(repeated), sum(map(len, repeated)))
    grams = [{tuple(d[i : i + 3]) for d in part for i in range(len(d) - 2)} for part in (train, val)]
    found = overlap(streams[:1], streams[1], EOT, 3)
    assert (found.ngrams, found.ngrams_seen) == (len(grams[1]), len(grams[1] & grams[0]))
    assert found.documents_seen == sum(any(tuple(d[i : i + 3]) in grams[0] for i in range(len(d) - 2)) for d in val)


def test_a_document_of_many_blocks_is_compared_whole(stream, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("gptlab.data.quality.BLOCK", 4)
    text = list(range(90))
    assert copies([stream(joined(text, text[:-1])), stream(joined(text))], EOT) == (1, 90)
    end = stream(joined([*text, 98], [*text, 98]))
    assert [len(ids) for ids in documents(end, EOT, 98)] == [90, 90]


def test_no_overlap_of_nothing(stream) -> None:  # type: ignore[no-untyped-def]
    assert overlap([stream(joined([1, 2, 3]))], stream(joined([1])), EOT, 3).ngrams == 0


@pytest.mark.parametrize("block", [3, 100])
def test_the_longest_documents(stream, monkeypatch: pytest.MonkeyPatch, block: int) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("gptlab.data.tokens.shards.BLOCK", block)
    tokenizer = Byte().build([])
    text = [[*b"short"], [*b"the  longest\nof all"], [*b"middling"]]
    ids = [token for d in text for token in (tokenizer.eot, *d)]
    found = longest([stream(ids[:6]), stream(ids[6:])], tokenizer, 2)
    assert found == [{"tokens": 20, "begins": "the longest of all"}, {"tokens": 9, "begins": "middling"}]


def test_characters_that_take_more_than_one_token() -> None:
    found = hard_characters(["naïve café", "é 猫"], Byte().build([]), 2)
    assert (found.different, found.share) == (3, 4 / 13)
    assert found.worst == [
        {"character": "é", "times": 2, "tokens": 2},
        {"character": "ï", "times": 1, "tokens": 2},
    ]
    assert hard_characters(["é" * 9], BPE(vocab_size=257 + 1).build(["éé"]), 2).different == 0


def test_characters_that_a_tokenizer_of_characters_does_not_have() -> None:
    found = hard_characters(["abc"], Char().build(["ab"]), 5)
    assert found.worst == [{"character": "c", "times": 1, "tokens": 1}]
