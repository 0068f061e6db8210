import itertools
import json
import pickle
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from gptlab.data.text.sources import TokenFiles
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import UserError
from gptlab.tokenizers import EOT, Tokenizer, load_tokenizer
from gptlab.tokenizers.bpe import BPE, BytePairTokenizer, _thinned
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import Char, NanoGPT
from gptlab.tokenizers.hf import JSONFile
from gptlab.tokenizers.openai import OpenAI
from gptlab.tokenizers.torture import TEXTS
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

TRAINING = [
    "The cat sat on the mat. The mat was the cat's.\n\n    def cat(mat): return mat\n" * 20,
    "naïve café 猫 🐈 " * 9,
]
UNUSUAL = [
    "",
    " ",
    "emoji 🐈‍⬛👩🏽‍🚀 and flags 🇨🇭",
    "line\r\nends\r\n\r\n\ttabs",
    "long" + " " * 3000 + "white" + "\n" * 500 + "\u3000\u00a0space   ",
    "e\u0301 combining \u0928\u093f\u0932 " + unicodedata.normalize("NFD", "ÄÖÜ"),
    "don't we'll they've I'M 1234567890 !!!??? a_b",
    "\x00\x01\x7f\ufeff\ufffd\U0010ffff",
    f"text that spells {EOT} is data",
]


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPE(vocab_size=400).build(TRAINING)


def every() -> list[Tokenizer]:
    return [BPE(vocab_size=300).build(TRAINING), Byte().build(TRAINING), Char().build(UNUSUAL)]


@pytest.mark.parametrize("text", UNUSUAL)
def test_unusual_text_round_trips(text: str) -> None:
    for tokenizer in every():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.eot not in ids
        assert all(0 <= i < tokenizer.n_vocab for i in ids)


def test_tiktoken_serves_the_ids_that_tokenizers_trained() -> None:
    """The trained merges, applied by the library that trained them, give the ids that we serve."""
    reference = HFTokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=499, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    reference.train_from_iterator(TRAINING, trainer)
    served = BPE(vocab_size=500).build(TRAINING)
    rng = random.Random(0)
    fuzz = ["".join(rng.choices("aabcdet Tm'\n .é猫🐈", k=80)) for _ in range(300)]
    for text in [*UNUSUAL, *TRAINING, *fuzz]:
        assert served.encode(text) == reference.encode(text).ids


def test_any_bytes_round_trip(bpe: Tokenizer) -> None:
    assert isinstance(bpe, BytePairTokenizer)
    rng = random.Random(0)
    for _ in range(200):
        data = bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
        ids = bpe.encoding._encode_bytes(data)
        assert bpe.decode_bytes(ids) == data


def test_merges_shorten_and_the_separator_is_last(bpe: Tokenizer) -> None:
    assert len(bpe.encode(TRAINING[0])) < len(TRAINING[0]) / 2
    assert bpe.n_vocab <= 400 and bpe.eot == bpe.n_vocab - 1


def test_training_is_deterministic() -> None:
    first, second = BPE(vocab_size=350).build(TRAINING), BPE(vocab_size=350).build(iter(TRAINING))
    assert isinstance(first, BytePairTokenizer) and isinstance(second, BytePairTokenizer)
    assert first.ranks == second.ranks


def test_bytes_are_bytes() -> None:
    tokenizer = Byte().build([])
    assert tokenizer.encode("aé") == [0x61, 0xC3, 0xA9]
    assert tokenizer.n_vocab == 257


def test_characters() -> None:
    tokenizer = Char().build(["hello", "world"])
    assert tokenizer.encode("dew") == [0, 1, 6]  # of d e h l o r w
    assert tokenizer.n_vocab == 9


def test_a_character_never_seen_is_unknown() -> None:
    tokenizer = Char().build(["abc"])
    assert tokenizer.decode(tokenizer.encode("abzc")) == "ab\ufffdc"


def test_half_a_character_does_not_break_decoding() -> None:
    tokenizer = Byte().build([])
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_saved_ones_come_back_the_same(tmp_path: Path) -> None:
    for i, tokenizer in enumerate(every()):
        folder = tmp_path / str(i)
        folder.mkdir()
        tokenizer.save(folder)
        loaded = load_tokenizer(folder)
        assert (loaded.n_vocab, loaded.eot) == (tokenizer.n_vocab, tokenizer.eot)
        for text in UNUSUAL:
            assert loaded.encode(text) == tokenizer.encode(text)


@pytest.mark.usefixtures("gpt2_cache")
def test_gpt2_s_ids(real_data: Path) -> None:
    tokenizer = OpenAI().build([])
    assert tokenizer.encode("every effort moves") == [16833, 3626, 6100]
    assert tokenizer.encode(" effort moves you") == [3626, 6100, 345]
    assert tokenizer.encode("I really like") == [40, 1107, 588]
    assert tokenizer.encode(" really like chocolate") == [1107, 588, 11311]
    assert tokenizer.encode("Every") == [6109]
    assert (tokenizer.n_vocab, tokenizer.eot) == (50257, 50256)
    verdict = (real_data / "the-verdict.txt").read_text()
    assert (len(verdict), len(tokenizer.encode(verdict))) == (20479, 5145)
    for text in UNUSUAL:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_gpt2_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable() -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("tiktoken_ext.openai_public.r50k_base", unreachable)
    with pytest.raises(UserError, match=r"^tokenizer=gpt2: .+TIKTOKEN_CACHE_DIR"):
        OpenAI().build([])


def test_a_vocabulary_too_small_for_bytes() -> None:
    with pytest.raises(ValueError, match="^vocab_size=256: .+; .+257"):
        BPE(vocab_size=256)


@pytest.mark.parametrize(("name", "eot", "n_vocab"), [("cl100k", 100257, 100277), ("o200k", 199999, 200019)])
def test_openai_s_published_ids(
    name: str, eot: int, n_vocab: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ranks = {bytes([b]): b for b in range(256)} | {b" t": 256, b"he": 257}
    monkeypatch.setattr("tiktoken_ext.openai_public.load_tiktoken_bpe", lambda *args, **kwargs: ranks)
    tokenizer = OpenAI(name).build([])
    tokenizer.save(tmp_path)
    for each in (tokenizer, load_tokenizer(tmp_path)):
        assert (each.eot, each.n_vocab) == (eot, n_vocab)
        assert each.encode("a the") == [97, 256, 257]
        assert each.decode([97, eot, 256, n_vocab - 1, 300]) == f"a{EOT} t"  # ids that no text has are nothing
        for text in UNUSUAL:
            assert each.decode(each.encode(text)) == text
            assert eot not in each.encode(text)


def test_an_encoding_that_openai_has_not() -> None:
    with pytest.raises(UserError, match=r"^name=gpt5: no such encoding; .+gpt2, cl100k, o200k$"):
        OpenAI("gpt5")


@pytest.fixture
def reference(tmp_path: Path) -> HFTokenizer:
    """Return a tokenizer.json as Hugging Face's library makes it; it would cut and pad encoded text."""
    made = HFTokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<pad>", EOT], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TRAINING, trainer)
    made.enable_truncation(5)
    made.enable_padding(pad_token="<pad>", length=50)
    made.save(str(tmp_path / "their.json"))
    made.no_truncation()
    made.no_padding()
    return made


def test_a_tokenizer_json_as_it_stands(reference: HFTokenizer, tmp_path: Path) -> None:
    tokenizer = JSONFile("their.json").build([])
    tokenizer.save(tmp_path)
    for each in (tokenizer, load_tokenizer(tmp_path)):
        assert (each.n_vocab, each.eot) == (300, 1)
        for text in [*TRAINING, *UNUSUAL]:
            ids = each.encode(text)
            assert each.encode_array(text).tolist() == ids
            assert each.decode(ids) == text
            assert each.eot not in ids
            if EOT not in text:
                assert ids == reference.encode(text).ids
    assert reference.encode(EOT).ids == [1]  # where a special token is not data
    assert JSONFile("their.json", eot="<pad>").build([]).eot == 0


def test_a_tokenizer_json_with_ids_left_out(tmp_path: Path) -> None:
    HFTokenizer(models.WordLevel({"a": 0, "<end>": 70}, unk_token="a")).save("gaps.json")
    assert JSONFile("gaps.json", eot="<end>").build([]).n_vocab == 71


def test_a_tokenizer_json_that_is_none(reference: HFTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.eot=</s>: no such token; .+$"):
        JSONFile("their.json", eot="</s>").build([])
    (tmp_path / "other.json").write_text('{"kind": "char"}')
    with pytest.raises(UserError, match=r"^tokenizer\.file=other\.json: is not a tokenizer\.json \(.+\); .+$"):
        JSONFile("other.json").build([])
    with pytest.raises(UserError, match=r"^file=missing\.json: no such file; .+$"):
        JSONFile("missing.json")


@pytest.mark.parametrize(("share", "n"), [(0.001, 1), (0.25, 25), (0.3, 30), (1.0, 100), (5.0, 100)])
def test_what_is_looked_at_is_evenly_spread(share: float, n: int) -> None:
    taken = [int(text) for text in _thinned(map(str, range(100)), share)]
    assert len(taken) == n
    gaps = {b - a for a, b in itertools.pairwise(taken)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_training_on_a_part_of_the_text() -> None:
    texts = ["the cat " * 50, "zzzz" * 100] * 20
    size = sum(map(len, texts))
    half = BPE(vocab_size=300, max_bytes=size // 2).build(texts, size)
    assert isinstance(half, BytePairTokenizer)
    assert b" cat" in half.ranks and b"zzzz" not in half.ranks  # every other one
    book = BPE(vocab_size=300, max_bytes=10).build(["the cat " * 50], 400)
    assert book.n_vocab > 257  # at least something is looked at


@pytest.mark.parametrize("name", ["cl100k", "o200k"])
def test_openai_s_later_encodings_are_exported_with_their_own_words(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """transformers gives the same ids on all texts; GPT-2's words would not."""
    import transformers

    trained = BPE(vocab_size=700).build(TEXTS * 3)
    assert isinstance(trained, BytePairTokenizer)
    monkeypatch.setattr("tiktoken_ext.openai_public.load_tiktoken_bpe", lambda *a, **k: dict(trained.ranks))
    ours = OpenAI(name).build([])
    (tmp_path / "tokenizer.json").write_text(ours.hf_definition())
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs.encode(text, split_special_tokens=True) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert theirs.eos_token_id == ours.eot and any(trained.encode(text) != ours.encode(text) for text in TEXTS)


def test_words_that_a_tokenizer_json_cannot_have() -> None:
    odd = BytePairTokenizer(BPE(vocab_size=400).build(TRAINING).ranks)  # type: ignore[attr-defined]
    odd.split = r"[\s\S]"  # not what it encodes by
    with pytest.raises(UserError, match="would give other ids; it cannot be exported"):
        odd.hf_definition()


def test_nanogpt_s_characters(tmp_path: Path) -> None:
    characters = sorted(set("hello world\n"))
    itos, stoi = dict(enumerate(characters)), {c: i for i, c in enumerate(characters)}
    meta = {"vocab_size": len(characters), "itos": itos, "stoi": stoi}
    Path("meta.pkl").write_bytes(pickle.dumps(meta))
    tokenizer = NanoGPT("meta.pkl").build([])
    assert tokenizer.encode("hello") == [stoi[c] for c in "hello"]
    assert tokenizer.decode(tokenizer.encode("low\n")) == "low\n"
    np.array([stoi[c] for c in "hello world\n" * 9], np.uint16).tofile("train.bin")
    corpus = prepare(TokenFiles(train=["train.bin"], val_fraction=0.5), NanoGPT("meta.pkl"))
    assert corpus.val_bytes == len(corpus.val) == 54 and not any(corpus.unspelled.values())
    with pytest.raises(UserError, match=r"^file=missing\.pkl: no such file"):
        NanoGPT("missing.pkl")


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("open('RAN', 'w').close()",))


@pytest.mark.parametrize(
    "meta",
    [
        Runs(),
        {"itos": {0: "a"}, "stoi": Runs()},
        {"itos": {0: "ab"}, "stoi": {"ab": 0}},
        [],
        {"itos": {0: "a"}, "stoi": {"b": 0}},
    ],
)
def test_a_meta_pkl_that_is_none_runs_nothing(meta: object) -> None:
    Path("meta.pkl").write_bytes(pickle.dumps(meta))
    with pytest.raises(UserError, match=r"^tokenizer\.file=meta\.pkl: ") as raised:
        NanoGPT("meta.pkl").build([])
    assert "\n" not in str(raised.value) and not Path("RAN").exists()
