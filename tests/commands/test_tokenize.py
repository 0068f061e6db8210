import json
from pathlib import Path

import numpy as np
import pytest

from gptlab.commands.tokenize import tokenize
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.tokenizers.bpe import BPE
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import tiny_model


def ask(texts: str, *more: str) -> dict[str, object]:
    config = compose(
        "tokenize", ["data=text", f"data.files={texts}", "tokenizer=bpe", "tokenizer.vocab_size=300", *more]
    )
    return tokenize(config)


@pytest.mark.slow
def test_a_folder_of_tokens_trains_as_its_text_does(texts: str, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ask(texts, "out=tokens")
    fixed = ["tokenizer=bpe", "tokenizer.vocab_size=300"]
    from_text = train(tiny(*fixed))
    config: TrainConfig = compose(
        "train",
        [
            *tiny_model(),
            "tokenizer=char",
            "data=tokens",
            "data.folder=tokens",
            "data.batch_size=4",
            "run_dir=of_tokens",
        ],
    )
    from_tokens = train(config)
    assert from_text and from_tokens
    assert from_tokens["val_loss"] == from_text["val_loss"] and from_tokens["data_hash"] == from_text["data_hash"]


def test_the_report_agrees_with_a_count_by_hand(texts: str) -> None:
    result = ask(texts, "out=tokens")
    manifest = json.loads(Path("tokens/manifest.json").read_text())
    held_out = np.fromfile("tokens/val-00000.bin", np.uint16)
    fit = result["tokenizer"]
    assert isinstance(fit, dict)
    words = held_out[held_out != manifest["eot"]]
    assert fit["bytes_per_token"] == pytest.approx(manifest["val"]["bytes"] / len(words))
    seen = set(np.fromfile("tokens/train-00000.bin", np.uint16).tolist())
    assert fit["unused"] == manifest["n_vocab"] - len(seen)
    longest = BPE(vocab_size=300).build([]).n_vocab - 1
    assert longest == 256 and len(fit["longest"][0]) > 2


def test_gpt2_is_compared_with_where_it_is_at_hand(texts: str, gpt2_cache: None) -> None:
    import tiktoken

    fit = ask(texts)["tokenizer"]
    assert isinstance(fit, dict)
    own = compose("tokenize", ["data=text", f"data.files={texts}"]).data
    from gptlab.data.tokens.prepare import prepare
    from gptlab.tokenizers.byte import Byte

    corpus = prepare(own, Byte())
    text = bytes(t for t in corpus.val[0 : len(corpus.val)].tolist() if t != 256).decode()
    assert fit["gpt2_bytes_per_token"] == pytest.approx(
        len(text.encode()) / len(tiktoken.get_encoding("r50k_base").encode_ordinary(text))
    )


def test_gpt2_is_not_fetched_for_a_comparison(texts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    fit = ask(texts)["tokenizer"]
    assert isinstance(fit, dict) and fit["gpt2_bytes_per_token"] is None


def test_a_mixture_becomes_a_folder_for_each_part(texts: str) -> None:
    own = texts.strip("[]").replace("*", "1*")
    parts = ["+data@data.parts.a=text", f"data.parts.a.files={texts}"]
    parts += ["+data@data.parts.b=text", f"data.parts.b.files=[{own}]"]
    tokenize(compose("tokenize", ["data=mixture", *parts, "tokenizer=byte", "out=tokens"]))
    assert sorted(path.name for path in Path("tokens").iterdir()) == ["a", "b"]
    assert Path("tokens/a/manifest.json").is_file()


def test_what_cannot_be(texts: str) -> None:
    Path("there").mkdir()
    with pytest.raises(UserError, match=r"^out=there: exists already; "):
        ask(texts, "out=there")
    with pytest.raises(UserError, match=r"^data=tokens: are tokens already; "):
        tokenize(compose("tokenize", ["data=tokens", "data.train=[a.bin]"]))
    for key, value in {"processes": 0, "shard_mb": 0, "shard_mb ": 4096}.items():
        with pytest.raises(UserError, match=f"^{key.strip()}={value}: "):
            ask(texts, f"{key.strip()}={value}")
