"""Checkpoints of nanoGPT, LitGPT and Raschka's book against forward passes written here: the same logits and texts."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.import_ import import_
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Greedy
from gptlab.decoding.generate import continue_ids
from gptlab.errors import UserError
from gptlab.tokenizers.char import CharTokenizer
from tests.interop.peers import (
    LITGPT,
    lit_logits,
    lit_weights,
    nano_logits,
    nano_weights,
    raschka_logits,
    raschka_weights,
)

SHAPES = [
    {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "bias": True},
    {"n_layer": 3, "n_head": 2, "n_embd": 24, "block_size": 64, "bias": False},
]
CHARACTERS = "\n !?ABCabcdefghijklmnopqrstuvwxyz"
Logits = Callable[[Tensor], Tensor]


def imported(out: Path, *asked: str) -> tuple[Any, Any]:
    import_(compose("import", [*asked, f"out={out}"]))
    return gptlab.load(out)


def assert_the_same(gpt: Any, theirs: Logits, size: int) -> None:
    """The same logits, and the same greedy text with our cache as by reading all of the text again for each token."""
    idx = torch.randint(gpt.config.vocab_size, (2, size - 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(idx)
        assert (gpt(idx) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
        text = idx[:1, :5]
        for _ in range(12):
            text = torch.cat([text, theirs(text)[:, -1:].argmax(-1)], 1)
    prompt = idx[0, :5].tolist()
    assert continue_ids(gpt, prompt, Greedy(), Limits(12, size), ()) == text[0, 5:].tolist()


def nano(folder: Path, shape: dict[str, Any], vocab_size: int, prefix: str = "", **changes: Any) -> tuple[Path, Logits]:
    """A ckpt.pt as train.py of nanoGPT writes it, and its logits."""
    args = {**shape, "vocab_size": vocab_size, "dropout": 0.1}
    weights = nano_weights(args)
    model = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    optimizer = {"state": {0: {"step": torch.tensor(9.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 6e-4}]}
    config = {"dataset": "toy_char", "out_dir": "out", "learning_rate": 1e-3, "compile": True}
    content = {"model": model, "optimizer": optimizer, "model_args": args, "iter_num": 9, "config": config}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({**content, "best_val_loss": torch.tensor(1.5), **changes}, folder / "ckpt.pt")
    return folder / "ckpt.pt", lambda idx: nano_logits(weights, args, idx)


def write_meta(path: Path, characters: str = CHARACTERS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stoi = {c: i for i, c in enumerate(characters)}
    path.write_bytes(pickle.dumps({"vocab_size": len(stoi), "itos": dict(enumerate(characters)), "stoi": stoi}))


@pytest.mark.parametrize("meta", ["out/meta.pkl", "data/toy_char/meta.pkl"])
@pytest.mark.parametrize(("shape", "prefix"), list(zip(SHAPES, ("", "_orig_mod."), strict=True)))
def test_nanogpt_with_characters(shape: dict[str, Any], prefix: str, meta: str, tmp_path: Path) -> None:
    checkpoint, theirs = nano(tmp_path / "out", shape, len(CHARACTERS), prefix)
    write_meta(tmp_path / meta)
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={checkpoint}")
    assert gpt.config.vocab_size == tokenizer.n_vocab == len(CHARACTERS)
    assert tokenizer.encode("Cab\n") == [CHARACTERS.index(c) for c in "Cab\n"]
    assert_the_same(gpt, theirs, shape["block_size"])


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
    assert_the_same(gpt, theirs, 64)


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
    assert_the_same(gpt, lambda idx: raschka_logits(weights, n_head, idx), context)


def lit(folder: Path, config: dict[str, Any], wrapped: bool = False, legacy: bool = False) -> dict[str, Tensor]:
    """A folder of LitGPT with random weights; returns these."""
    folder.mkdir()
    weights = lit_weights(config)
    state = dict(weights)
    if legacy:  # the queries, the key and the value of each group together
        for name in [name for name in state if ".attn.qkv." in name]:
            n_kv, size = config["n_query_groups"], config["head_size"]
            q, k, v = state.pop(name).split([config["n_head"] * size, n_kv * size, n_kv * size])
            groups = zip(q.chunk(n_kv), k.chunk(n_kv), v.chunk(n_kv), strict=True)
            state[name.replace(".qkv.", ".attn.")] = torch.cat([part for group in groups for part in group])
    torch.save({"model": state, "iter_num": 3} if wrapped else state, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.dump(config))
    vocab = {letter: i for i, letter in enumerate(["<s>", "</s>", *"abcdefghijklmnop "])}
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    declared = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return weights


@pytest.mark.parametrize("name", LITGPT)
def test_litgpt(name: str, tmp_path: Path) -> None:
    config = LITGPT[name]
    weights = lit(tmp_path / "lit", config, wrapped=len(name) % 2 == 0, legacy="legacy" in name)
    gpt, tokenizer = imported(tmp_path / "run", f"checkpoint={tmp_path}/lit")
    assert tokenizer.encode("a cab") == [2, 18, 4, 2, 3] and (tokenizer.eot, tokenizer.ends) == (0, (1,))
    assert_the_same(gpt, lambda idx: lit_logits(weights, config, idx), 40)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil"),)


def changed(part: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change a part of what a file holds; '' is all of it."""

    def damage(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content[part] if part else content)
        torch.save(content, path)

    return damage


QUERIES = "transformer.h.0.attn.c_attn.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "code": (lambda path: torch.save({"model": Evil()}, path), "is damaged, or holds more than tensors"),
    "code in a pickle": (lambda path: path.write_bytes(pickle.dumps({"model": Evil()})), "is damaged, or holds more"),
    "a tensor": (lambda path: torch.save(torch.ones(3), path), "it holds a Tensor"),
    "nothing": (lambda path: path.write_bytes(b""), "is damaged, or holds more"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:4000]), "is damaged, or holds more"),
    "no model_args": (changed("", lambda all: all.pop("model_args")), "has no model_args"),
    "model_args of another kind": (changed("", lambda all: all.update(model_args=3)), "model_args are not keys with"),
    "a size less": (changed("model_args", lambda args: args.pop("n_head")), "lacks 'n_head'"),
    "a size in words": (changed("model_args", lambda args: args.update(n_layer="2")), "^n_layer=2: is not a whole number"),
    "many layers": (changed("model_args", lambda args: args.update(n_layer=9999)), "tensors for 9999 layers"),
    "too many layers": (changed("model_args", lambda args: args.update(n_layer=10**12)), "^n_layer=1000000000000: is more"),
    "more heads": (changed("model_args", lambda args: args.update(n_head=5)), "^n_head=5: does not divide n_embd=32"),
    "a fork's field": (changed("model_args", lambda args: args.update(use_rmsnorm=True)), "^use_rmsnorm=True: is not kn"),
    "no tensors": (changed("", lambda all: all.pop("model")), "does not hold tensors by name"),
    "missing": (changed("model", lambda model: model.pop(QUERIES)), f"has no tensor {QUERIES}"),
    "left over": (changed("model", lambda model: model.update(more=torch.ones(2))), "does not have: more"),
    "shape": (changed("model", lambda model: model.update({QUERIES: torch.ones(96, 31)})), r"\[96, 31\] instead of"),
    "int8": (changed("model", lambda model: model.update({QUERIES: torch.ones(96, 32).char()})), "has the dtype int8"),
    "huge": (
        changed("model", lambda model: model.update({QUERIES: torch.ones(1).expand(1 << 20, 1 << 20)})),
        "has more numbers than are stored",
    ),
    "untied": (
        changed("model", lambda model: model.update({"lm_head.weight": model["lm_head.weight"] + 1})),
        "its lm_head.weight is not its embedding",
    ),
    "biases": (changed("model_args", lambda args: args.update(bias=False)), r"does not have: transformer\.h\.0\.attn"),
    "other characters": (lambda path: write_meta(path.with_name("meta.pkl"), "ab"), "has 2 characters, and the model"),
    "code in meta.pkl": (
        lambda path: path.with_name("meta.pkl").write_bytes(pickle.dumps(Evil())),
        "cannot be read as characters",
    ),
    "no meta.pkl": (lambda path: path.with_name("meta.pkl").unlink(), "has 33 ids, and not GPT-2's 50257 or 50304"),
    "another dataset": (
        lambda path: (path.with_name("meta.pkl").unlink(), changed("config", lambda c: c.update(dataset="../out"))(path)),
        "has 33 ids, and not GPT-2's",
    ),
    "something else": (lambda path: torch.save({"weights": torch.ones(2)}, path), "is none that is known here: it holds wei"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_broken_checkpoints_are_one_line_and_leave_nothing(how: str, tmp_path: Path) -> None:
    checkpoint, _ = nano(tmp_path / "out", SHAPES[0], len(CHARACTERS))
    write_meta(tmp_path / "out/meta.pkl")
    damage, said = BROKEN[how]
    damage(checkpoint)
    with pytest.raises(UserError, match=said) as raised:
        imported(tmp_path / "here/run", f"checkpoint={checkpoint}")
    assert "\n" not in str(raised.value) and not Path("evil").exists()
    assert not (tmp_path / "here").exists() or not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint, _ = nano(tmp_path / "out", SHAPES[0], len(CHARACTERS))
    write_meta(tmp_path / "out/meta.pkl")
    content = torch.load(checkpoint, weights_only=True)
    content["model"] = {name: tensor.to(dtype) for name, tensor in content["model"].items()}
    torch.save(content, checkpoint)
    gpt, _ = imported(tmp_path / "run", f"checkpoint={checkpoint}")
    assert torch.equal(gpt.blocks[0].attn.qkv.weight, content["model"][QUERIES].float())


BOOK: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str], str]] = {
    "no n_head": (lambda state: None, [], "^n_head=null: is needed for this checkpoint"),
    "n_head": (lambda state: None, ["n_head=5"], "^n_head=5: does not divide n_embd=24"),
    "vocabulary": (
        lambda state: state.update({name: torch.ones(99, 24) for name in ("tok_emb.weight", "out_head.weight")}),
        ["n_head=2"],
        "has 99 ids, and not GPT-2's",
    ),
    "classifier": (lambda state: state.update({"out_head.weight": torch.ones(2, 24)}), ["n_head=2"], r"is \[2, 24\] inst"),
    "layer": (lambda state: state.pop("trf_blocks.1.norm1.scale"), ["n_head=2"], r"no tensor trf_blocks\.1\.norm1\.weig"),
    "no embedding": (lambda state: state.pop("tok_emb.weight"), ["n_head=2"], r"has no tensor tok_emb\.weight"),
    "left over": (lambda state: state.update(lora=torch.ones(2)), ["n_head=2"], "a GPTModel with its tensors does not have"),
    "vector": (lambda state: state.update({"pos_emb.weight": torch.ones(24)}), ["n_head=2"], "which is no matrix"),
}  # fmt: skip


@pytest.mark.parametrize("how", BOOK)
def test_what_the_book_s_state_dict_does_not_tell_is_asked_for(how: str, gpt2_cache: None, tmp_path: Path) -> None:
    change, asked, said = BOOK[how]
    state = raschka_weights(3, 24, 16, False)
    change(state)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match=said) as raised:
        imported(tmp_path / "run", f"checkpoint={tmp_path}/model.pth", *asked)
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"mlp_class_name": "LLaMAMoE", "n_expert": 8}, "^mlp_class_name=LLaMAMoE"),
    "gelu": ({"mlp_class_name": "GemmaMLP"}, "^mlp_class_name=GemmaMLP with gelu_approximate=none"),
    "latent attention": ({"latent_attention": {"q_lora_rank": 3}}, "^latent_attention="),
    "interleaved rope": ({"rope_interleave": True}, "^rope_interleave=True"),
    "yarn": (
        {"rope_adjustments": {"factor": 4.0, "beta_fast": 32, "beta_slow": 1, "original_max_seq_len": 16}},
        "^rope_adjustments=.+ is not known here",
    ),
    "no rope": ({"rotary_percentage": 0.0}, r"^rotary_percentage=0\.0"),
    "norms": ({"post_mlp_norm": True}, "^norm_1, norm_2, post_attention_norm, post_mlp_norm="),
    "windows": ({"sliding_window_size": 4, "sliding_window_indices": [0, 1]}, r"^sliding_window_indices=\[0, 1\]"),
    "two ropes": (
        {"sliding_window_size": 4, "rope_local_base_freq": 1e3, "rope_indices": [0, 1]},
        r"^rope_indices=\[0, 1\]",
    ),
    "norm of heads": ({"norm_qk": True, "norm_class_name": "LayerNorm"}, "^norm_qk=True"),
    "shared norm": ({"shared_attention_norm": True}, "^shared_attention_norm=True"),
    "newer": ({"attention_sinks": 4}, "^attention_sinks=4: is not known for model_type=LitGPT"),
    "a size in words": ({"n_layer": "two"}, "^n_layer=two: is not a whole number"),
    "vocabulary": ({"padded_vocab_size": 12}, "its tokenizer has 19 tokens, its model 12"),
    "shape": ({"intermediate_size": 40}, r"instead of \[40, 32\]"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_litgpt_has_more_is_refused(how: str, tmp_path: Path) -> None:
    changes, said = REFUSED[how]
    config = LITGPT["llama, grouped"]
    lit(tmp_path / "lit", config)
    (tmp_path / "lit/model_config.yaml").write_text(yaml.dump({**config, **changes}))
    with pytest.raises(UserError, match=said) as raised:
        imported(tmp_path / "run", f"checkpoint={tmp_path}/lit")
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda lit: (lit / "model_config.yaml").unlink(), "is a folder without a model_config.yaml"),
    "no weights": (lambda lit: (lit / "lit_model.pth").unlink(), "has no lit_model.pth"),
    "code": (lambda lit: (lit / "model_config.yaml").write_text("!!python/object/apply:os.system [ls]"), "cannot be r"),
    "list": (lambda lit: (lit / "model_config.yaml").write_text("[1]"), "does not hold keys with values"),
    "empty": (lambda lit: (lit / "model_config.yaml").write_text("{}"), "lacks 'n_embd'"),
    "no tokenizer": (lambda lit: (lit / "tokenizer.json").unlink(), r"^checkpoint=.+has no tokenizer\.json"),
    "tokenizer": (lambda lit: (lit / "tokenizer.json").write_text('{"model": {}}'), "its tokenizer cannot be read"),
}


@pytest.mark.parametrize("how", FOLDERS)
def test_broken_folders_are_one_line(how: str, tmp_path: Path) -> None:
    lit(tmp_path / "lit", LITGPT["llama, grouped"])
    damage, said = FOLDERS[how]
    damage(tmp_path / "lit")
    with pytest.raises(UserError, match=said) as raised:
        imported(tmp_path / "run", f"checkpoint={tmp_path}/lit")
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_closed_characters_are_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = CharTokenizer("ab\n", closed=True)
    tokenizer.save(tmp_path)
    from gptlab.tokenizers import load_tokenizer

    again = load_tokenizer(tmp_path)
    assert (again.n_vocab, again.eot, again.ends, again.end_of_document) == (3, 2, (), None)
    assert again.encode("abc\n") == again.encode_array("abc\n").tolist() == [0, 1, 2]
