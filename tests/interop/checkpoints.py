"""Checkpoints of nanoGPT and LitGPT as these programs write them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import gptlab
from gptlab.commands.import_ import import_
from gptlab.config import compose
from tests.interop.peers import lit_weights, nano_logits, nano_weights
from tokenizers import Tokenizer, models

SHAPES = [
    {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "bias": True},
    {"n_layer": 3, "n_head": 2, "n_embd": 24, "block_size": 64, "bias": False},
]
CHARACTERS = "\n !?ABCabcdefghijklmnopqrstuvwxyz"
Logits = Callable[[Tensor], Tensor]


def imported(out: Path, *asked: str) -> tuple[Any, Any]:
    import_(compose("import", [*asked, f"out={out}"]))
    return gptlab.load(out)


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
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    declared = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(declared))
    return weights
