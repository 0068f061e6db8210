"""GGUF files read back by gguf's own reader and by transformers, and computed as llama.cpp does, from the file alone."""

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from gptlab.commands.export import export
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.interop.importing import write_run
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import Declared
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.char import CharTokenizer

SMALL: dict[str, Any] = {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": 300, "block_size": 64}
GPT2 = {**SMALL, "block_size": 1024}  # transformers reads no other context from a file
LLAMA = {
    **SMALL,
    "positions": "rope",
    "norm": "rms",
    "feed_forward": "swiglu",
    "bias": False,
    "tied": False,
    "n_inner": 48,
}
LLAMA3 = {"rope_factor": 8.0, "rope_original": 16, "rope_base": 5e5, "n_kv_head": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2 without biases, untied": {**SMALL, "bias": False, "tied": False, "n_inner": 40, "norm_eps": 1e-3},
    "llama": LLAMA,
    "llama, grouped, tied": {
        **LLAMA,
        "n_layer": 3,
        "n_head": 6,
        "n_embd": 48,
        "n_kv_head": 2,
        "tied": True,
        "norm_eps": 1e-6,
    },
    "llama, biases, wide heads": {**LLAMA, "bias": True, "head_size": 16, "n_kv_head": 2},
    "llama, linear": {**LLAMA, "rope_type": "linear", "rope_factor": 4.0},
    "llama, llama3": {**LLAMA, **LLAMA3},
}
IN_TRANSFORMERS = ("gpt2", "llama", "llama, grouped, tied")


def byte_pairs(**declared: Any) -> Tokenizer:
    tokenizer = BPE(vocab_size=290).build(["the cat sat on the mat and the dog ran to the man. " * 9])
    tokenizer.declare(Declared(**declared))
    return tokenizer


def written(folder: Path, options: dict[str, Any], tokenizer: Tokenizer | None = None, scale: float = 0.2) -> GPT:
    """A run with random weights by which mistakes would show."""
    gpt = GPT(GPTConfig(**options)).eval()
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=scale)
    folder.mkdir()
    write_run(folder, gpt.state_dict(), "toy", gpt.config, tokenizer or byte_pairs(), "toy")  # type: ignore[arg-type]
    return gpt


def exported(folder: Path, *asked: str) -> gguf.GGUFReader:
    export(compose("export", [f"run={folder}/run", "format=gguf", f"out={folder}/model.gguf", *asked]))
    return gguf.GGUFReader(folder / "model.gguf")


def numbers(reader: gguf.GGUFReader) -> dict[str, Tensor]:
    found = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return {name: torch.from_numpy(np.array(data)).float() for name, data in found.items()}


def value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def logits_of(reader: gguf.GGUFReader, idx: Tensor) -> Tensor:
    """What llama.cpp computes: src/models/gpt2.cpp and llama.cpp, where rotations are of neighbours, in float64."""
    w, kind = {name: tensor.double() for name, tensor in numbers(reader).items()}, value(reader, "general.architecture")

    def field(key: str, default: Any = None) -> Any:
        found = value(reader, f"{kind}.{key}")
        return default if found is None else found

    heads, kv = field("attention.head_count"), field("attention.head_count_kv", field("attention.head_count"))
    width, T = field("embedding_length"), idx.shape[1]
    size = field("attention.key_length", width // heads)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        if kind == "gpt2":
            eps = field("attention.layer_norm_epsilon")
            return F.layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"], eps)
        eps = field("attention.layer_norm_rms_epsilon")
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.arange(0, size, 2).double()
        theta = field("rope.freq_base") ** (-pairs / field("rope.dimension_count"))
        theta = theta / w.get("rope_freqs.weight", torch.ones(1).double()) / field("rope.scaling.factor", 1.0)
        angle = torch.outer(torch.arange(T).double(), theta)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)

    x = w["token_embd.weight"][idx]
    if kind == "gpt2":
        x = x + w["position_embd.weight"][:T]
    for i in range(field("block_count")):
        at = f"blk.{i}."
        h = norm(f"{at}attn_norm", x)
        if kind == "gpt2":
            parts = linear(f"{at}attn_qkv", h).chunk(3, -1)
        else:
            parts = tuple(linear(f"{at}attn_{name}", h) for name in "qkv")
        q, k, v = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part in parts)
        if kind == "llama":
            q, k = turned(q), turned(k)
        k, v = k.repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        scores = (q @ k.mT / size**0.5).masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        x = x + linear(f"{at}attn_output", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        h = norm(f"{at}ffn_norm", x)
        up = linear(f"{at}ffn_up", h)
        h = F.gelu(up, approximate="tanh") if kind == "gpt2" else F.silu(linear(f"{at}ffn_gate", h)) * up
        x = x + linear(f"{at}ffn_down", h)
    return norm("output_norm", x) @ w.get("output.weight", w["token_embd.weight"]).T


@pytest.mark.parametrize("name", SHAPES)
def test_the_file_computes_the_same(name: str, tmp_path: Path) -> None:
    gpt = written(tmp_path / "run", SHAPES[name])
    reader = exported(tmp_path)
    idx = torch.randint(280, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = gpt(idx)
        assert (logits_of(reader, idx) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
        if name in IN_TRANSFORMERS:
            theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
            assert (theirs(idx).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_every_tensor_is_there(dtype: str, tmp_path: Path) -> None:
    """Rows of queries and keys are put back by the inverse of what the exporter does; the rest is as it was."""
    gpt = written(tmp_path / "run", SHAPES["llama, grouped, tied"])
    reader = exported(tmp_path, f"dtype={dtype}")
    found, kinds = numbers(reader), {t.name: t.tensor_type.name for t in reader.tensors}
    rounded = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    expected: dict[str, Tensor] = {"token_embd.weight": gpt.wte.weight, "output_norm.weight": gpt.ln_f.weight}
    for i, block in enumerate(gpt.blocks):
        at = f"blk.{i}."
        q, k, v = block.attn.qkv.weight.split([48, 16, 16])
        for part, rows, heads in (("q", q, 6), ("k", k, 2)):
            theirs = found.pop(f"{at}attn_{part}.weight")
            back = theirs.reshape(heads, 4, 2, 48).transpose(1, 2).reshape(rows.shape)  # D/2 pairs of neighbours
            assert torch.equal(back, rows.to(rounded).float())
        expected |= {f"{at}attn_v.weight": v, f"{at}attn_output.weight": block.attn.proj.weight}
        expected |= {f"{at}attn_norm.weight": block.ln_1.weight, f"{at}ffn_norm.weight": block.ln_2.weight}
        expected |= {f"{at}ffn_gate.weight": block.mlp.gate.weight, f"{at}ffn_up.weight": block.mlp.fc.weight}
        expected[f"{at}ffn_down.weight"] = block.mlp.proj.weight
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert kinds[name] == (dtype.upper() if tensor.dim() == 2 else "F32")
        assert torch.equal(found[name], tensor.to(rounded).float() if tensor.dim() == 2 else tensor)
    assert value(reader, "general.file_type") == getattr(gguf.LlamaFileType, f"MOSTLY_{dtype.upper()}", 0)


def test_gpt2_s_tensors_and_its_position_embedding(tmp_path: Path) -> None:
    gpt = written(tmp_path / "run", GPT2)
    reader = exported(tmp_path, "dtype=f16")
    found, kinds = numbers(reader), {t.name: t.tensor_type.name for t in reader.tensors}
    assert len(found) == 4 + 12 * 2 and "output.weight" not in found
    assert torch.equal(found["blk.1.attn_qkv.weight"], gpt.blocks[1].attn.qkv.weight.half().float())
    assert torch.equal(found["blk.1.ffn_down.bias"], gpt.blocks[1].mlp.proj.bias)
    assert kinds["position_embd.weight"] == "F32" and torch.equal(found["position_embd.weight"], gpt.wpe.weight)


def test_fields(tmp_path: Path) -> None:
    written(tmp_path / "run", SHAPES["llama, biases, wide heads"])
    reader = exported(tmp_path)
    expected = {
        "general.architecture": "llama", "general.type": "model", "general.name": "run", "general.file_type": 0,
        "general.quantization_version": 2, "llama.vocab_size": 300, "llama.context_length": 64,
        "llama.embedding_length": 32, "llama.block_count": 2, "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.attention.key_length": 16,
        "llama.attention.value_length": 16, "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.rope.dimension_count": 16, "llama.rope.freq_base": 10000.0,
    }  # fmt: skip
    assert {key: value(reader, key) for key in expected} == expected
    rest = {key for key in reader.fields if not key.startswith(("GGUF.", "tokenizer."))}
    assert rest == set(expected)


def test_the_tokenizer(tmp_path: Path) -> None:
    """transformers builds the same one from the file; ids without a token are unused ones."""
    templates = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    eot = byte_pairs().eot
    tokenizer = byte_pairs(bos=eot, ends=(eot, 65), pad=eot + 1, adds_bos=True, chat_template=templates)
    written(tmp_path / "run", GPT2, tokenizer)
    reader = exported(tmp_path)
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 300 and (tokens[eot], types[eot]) == ("<|endoftext|>", gguf.TokenType.CONTROL)
    assert tokens[eot + 1 :] == [f"[UNUSED{i}]" for i in range(eot + 1, 300)] and set(types[eot + 1 :]) == {
        gguf.TokenType.UNUSED
    }
    assert set(types[:eot]) == {gguf.TokenType.NORMAL}
    expected = {"model": "gpt2", "pre": "gpt-2", "bos_token_id": eot, "eos_token_id": eot, "eot_token_id": 65,
                "padding_token_id": eot + 1, "add_bos_token": True, "add_eos_token": False}  # fmt: skip
    assert {key: value(reader, f"tokenizer.ggml.{key}") for key in expected} == expected
    assert value(reader, "tokenizer.chat_template") == "{{ messages }}"
    assert value(reader, "tokenizer.chat_templates") == ["tools"]
    assert value(reader, "tokenizer.chat_template.tools") == "{{ tools }}"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in ("the cat sat on the mat", " The dog's 12 men\n\n ran\u00e9 \U0001f408", "x"):
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)


ROPE = {**LLAMA, "tied": True}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "exact gelu": (
        {**SMALL, "feed_forward": "gelu_exact"},
        "^model.feed_forward=gelu_exact: llama.cpp has no such model",
    ),
    "relu2": ({**SMALL, "feed_forward": "relu2"}, "^model.feed_forward=relu2: llama.cpp has no such model"),
    "alibi": ({**SMALL, "positions": "alibi"}, "^model.positions=alibi: llama.cpp has no"),
    "part of a head": ({**ROPE, "rope_fraction": 0.5}, r"^model.rope_fraction=0\.5: llama.cpp has no such model"),
    "yarn": ({**ROPE, "rope_type": "yarn", "rope_factor": 4.0, "rope_high_freq": 32.0}, "^model.rope_type=yarn"),
    "window": ({**ROPE, "window": 9}, "^model.window=9: llama.cpp has no"),
    "norm of heads": ({**ROPE, "qk_norm": True}, "^model.qk_norm=True: llama.cpp has no"),
    "softcap": ({**ROPE, "logit_softcap": 9.0}, r"^model.logit_softcap=9\.0: llama.cpp has no"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_llama_cpp_does_not_compute_is_refused(how: str, tmp_path: Path) -> None:
    options, said = REFUSED[how]
    written(tmp_path / "run", options)
    assert_refused(tmp_path, said)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_weights_that_a_format_does_not_hold(dtype: str, tmp_path: Path) -> None:
    written(tmp_path / "run", SMALL, scale=1e5)
    if dtype == "f16":
        assert_refused(tmp_path, "^dtype=f16: its .+ has a weight of .+, and f16 ends at 65504", "dtype=f16")
    else:
        assert exported(tmp_path, f"dtype={dtype}").tensors


TOKENIZERS = {
    "bytes": (Byte().build([]), "merges no bytes"),
    "characters": (CharTokenizer("abc"), "is a CharTokenizer"),
    "only characters": (CharTokenizer("abc", closed=True), "is a CharTokenizer"),
    "many ends": (byte_pairs(ends=(1, 2, 3, 4)), "names 4 ids that end a text"),
}


@pytest.mark.parametrize("how", TOKENIZERS)
def test_other_tokenizers_are_refused(how: str, tmp_path: Path) -> None:
    tokenizer, said = TOKENIZERS[how]
    written(tmp_path / "run", SMALL, tokenizer)
    assert_refused(tmp_path, f"^run=its tokenizer: {said}")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written(tmp_path / "run", SMALL)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert_refused(tmp_path, r"^format=gguf: needs gguf; pip install 'gptlab\[gguf\]'$")


def assert_refused(folder: Path, said: str, *asked: str) -> None:
    """In one line, and nothing is left."""
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=said) as raised:
        exported(folder, *asked)
    assert "\n" not in str(raised.value) and sorted(folder.iterdir()) == before
