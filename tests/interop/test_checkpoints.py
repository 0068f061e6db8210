"""Checkpoints of nanoGPT, LitGPT and Raschka's book against forward passes written here: the same logits and texts."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import continue_ids
from gptlab.tokenizers.char import CharTokenizer
from tests.interop.checkpoints import CHARACTERS, SHAPES, Logits, imported, lit, nano, write_meta
from tests.interop.peers import (
    LITGPT,
    lit_logits,
    raschka_logits,
    raschka_weights,
)

TABLE = Path(__file__).parents[2] / "docs/interop.md"
ROWS = {"nanoGPT": "ckpt.pt", "LitGPT": "its folder", "GPTModel": "the book's state dict, with n_head"}
DIFFERENCES: dict[str, float] = {}  # format -> largest difference of logits, as a share of the largest logit


def assert_the_same(kind: str, gpt: Any, theirs: Logits, size: int) -> None:
    """The same logits, and the same greedy text with our cache as by reading all of the text again for each token."""
    idx = torch.randint(gpt.config.vocab_size, (2, size - 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(idx)
        difference = ((gpt(idx) - expected).abs().max() / expected.abs().max()).item()
        assert difference < 1e-5
        DIFFERENCES[kind] = max(DIFFERENCES.get(kind, 1e-9), difference)
        text = idx[:1, :5]
        for _ in range(12):
            text = torch.cat([text, theirs(text)[:, -1:].argmax(-1)], 1)
    prompt = idx[0, :5].tolist()
    assert continue_ids(gpt, prompt, Greedy(), Limits(12, size), ()) == text[0, 5:].tolist()


@pytest.mark.parametrize("meta", ["out/meta.pkl", "data/toy_char/meta.pkl"])
@pytest.mark.parametrize(("shape", "prefix"), list(zip(SHAPES, ("", "_orig_mod."), strict=True)))
def test_nanogpt_with_characters(shape: dict[str, Any], prefix: str, meta: str, tmp_path: Path) -> None:
    checkpoint, theirs = nano(tmp_path / "out", shape, len(CHARACTERS), prefix)
    write_meta(tmp_path / meta)
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={checkpoint}")
    assert gpt.config.vocab_size == tokenizer.n_vocab == len(CHARACTERS)
    assert tokenizer.encode("Cab\n") == [CHARACTERS.index(c) for c in "Cab\n"]
    assert_the_same("nanoGPT", gpt, theirs, shape["block_size"])


def test_a_model_of_characters_is_a_run_like_any_other(tmp_path: Path) -> None:
    """It is evaluated as nanoGPT does, also on its own val.bin, writes on without an end, and is exported."""
    checkpoint, theirs = nano(tmp_path / "out", SHAPES[0], len(CHARACTERS))
    write_meta(tmp_path / "out/meta.pkl")
    _, tokenizer = imported(tmp_path / "run", f"checkpoint={checkpoint}")
    text = "A cab? Bad\nface!" * 6
    Path("text.txt").write_text(text)
    ids = torch.tensor([CHARACTERS.index(c) for c in "\n" + text])
    with torch.no_grad():
        windows = [ids[i : i + 49] for i in range(0, len(ids) - 1, 48)]
        nats = sum(F.cross_entropy(theirs(w[None, :-1])[0], w[1:], reduction="sum").item() for w in windows)
    ask = [f"run={tmp_path}/run", "data=text", "data.files=[text.txt]", "data.val_fraction=1"]
    found = evaluate(compose("evaluate", ask))
    assert found["loss"] == pytest.approx(nats / len(text), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / len(text) / math.log(2), rel=1e-5)
    Path("val.bin").write_bytes(ids.numpy().astype("uint16").tobytes())
    raw = evaluate(
        compose("evaluate", [f"run={tmp_path}/run", "data=tokens", "data.train=[val.bin]", "data.val=[val.bin]"])
    )
    assert raw["bits_per_byte"] == pytest.approx(raw["loss"] / math.log(2) * len(text) / len(ids), rel=1e-5)
    ask = [f"run={tmp_path}/run", "start=eot", "max_new_tokens=40", "seed=3"]
    assert len(sample(compose("sample", ask))["samples"][0]["ids"]) == 40  # whichever characters are drawn
    export(compose("export", [f"run={tmp_path}/run", f"out={tmp_path}/hf"]))
    import transformers

    theirs_again = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    for line in ("Bad\nface?", "caf\u00e9 #1"):
        assert theirs_again.encode(line) == tokenizer.encode(line)
        assert tokenizer.unspelled(line, tokenizer.encode_array(line)) == len(line) - len(tokenizer.encode(line))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        assert (again(ids[None, :40]).logits - theirs(ids[None, :40])).abs().max() < 1e-4
    assert again.config.eos_token_id is None


def test_nanogpt_with_gpt2_s_tokenizer(gpt2_cache: None, tmp_path: Path) -> None:
    checkpoint, theirs = nano(tmp_path / "out", SHAPES[1], 50304, config={"dataset": "openwebtext"})
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={checkpoint}")
    assert (tokenizer.n_vocab, tokenizer.eot) == (50257, 50256)
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert_the_same("nanoGPT", gpt, theirs, 64)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_the_model_of_the_book(qkv_bias: bool, wrapped: bool, gpt2_cache: None, tmp_path: Path) -> None:
    n_layer, n_head, width, context = (2, 4, 32, 40) if wrapped else (3, 2, 24, 56)
    weights = raschka_weights(n_layer, width, context, qkv_bias)
    masks = {f"trf_blocks.{i}.att.mask": torch.ones(context, context).triu(1) for i in range(n_layer)}
    state = {**weights, **(masks if qkv_bias else {})}
    optimizer = {"state": {}, "param_groups": [{"lr": 4e-4, "weight_decay": 0.1}]}
    both = {"model_state_dict": state, "optimizer_state_dict": optimizer}
    torch.save(both if wrapped else state, tmp_path / "model.pth")
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={tmp_path}/model.pth", f"n_head={n_head}")
    assert tokenizer.encode("Hello, I am") == [15496, 11, 314, 716]
    assert_the_same("GPTModel", gpt, lambda idx: raschka_logits(weights, n_head, idx), context)


@pytest.mark.parametrize("name", LITGPT)
def test_litgpt(name: str, tmp_path: Path) -> None:
    config = LITGPT[name]
    weights = lit(tmp_path / "lit", config, wrapped=len(name) % 2 == 0, legacy="legacy" in name)
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={tmp_path}/lit")
    assert tokenizer.encode("a cab") == [2, 18, 4, 2, 3] and (tokenizer.eot, tokenizer.ends) == (0, (1,))
    assert_the_same("LitGPT", gpt, lambda idx: lit_logits(weights, config, idx), 40)


def row(kind: str, bound: float) -> str:
    """The row of a format in the table of docs/interop.md."""
    shapes = {"nanoGPT": len(SHAPES), "LitGPT": len(LITGPT), "GPTModel": 2}[kind]
    return f"| {kind} | {ROWS[kind]} | {shapes} | {bound:.0e} |"


def test_the_table_of_the_docs() -> None:
    """Written again with GPTLAB_REWRITE_TABLES=1, where all of this file runs in one process."""
    text = TABLE.read_text("utf-8")
    lines = {kind: next(line for line in text.splitlines() if line.startswith(f"| {kind} |")) for kind in ROWS}
    if os.environ.get("GPTLAB_REWRITE_TABLES"):
        for kind, difference in DIFFERENCES.items():
            text = text.replace(lines[kind], row(kind, 10 ** math.ceil(math.log10(3 * difference))))
        TABLE.write_text(text, "utf-8")
        return
    for kind, line in lines.items():
        bound = float(line.split("|")[4])
        assert line == row(kind, bound) and DIFFERENCES.get(kind, 0) <= bound


def test_closed_characters_are_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("ab\n", closed=True)
    tokenizer.save(tmp_path)
    from gptlab.tokenizers import load_tokenizer

    again = load_tokenizer(tmp_path)
    assert (again.n_vocab, again.eot, again.ends, again.end_of_document) == (3, 2, (), None)
    assert again.encode("abc\n") == again.encode_array("abc\n").tolist() == [0, 1, 2]
