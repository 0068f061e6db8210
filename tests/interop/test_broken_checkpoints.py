"""Checkpoints that are damaged, hostile or cannot be read exactly: one line each, nothing run, nothing left."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gptlab.errors import UserError
from tests.interop.checkpoints import CHARACTERS, SHAPES, imported, lit, nano, write_meta
from tests.interop.peers import LITGPT, raschka_weights


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
