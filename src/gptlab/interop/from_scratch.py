"""Read the state dicts of the GPTModel of *Build a Large Language Model (From Scratch)* (Raschka 2024)."""

import re

from torch import Tensor

from gptlab.errors import UserError, require
from gptlab.interop.family import Naming
from gptlab.interop.state_dict import Checkpoint, Saved, gpt2_tokenizer
from gptlab.interop.weight_files import StateDict, tensors_of
from gptlab.model.config import GPTConfig

NAMES = {
    "wte": ("tok_emb",),
    "wpe": ("pos_emb",),
    "ln_f": ("final_norm",),
    "ln_1": ("norm1",),
    "ln_2": ("norm2",),
    "attn.qkv": ("att.W_query", "att.W_key", "att.W_value"),
    "attn.proj": ("att.out_proj",),
    "mlp.fc": ("ff.layers.0",),
    "mlp.proj": ("ff.layers.2",),
}
NAMING = Naming("GPTModel", names=NAMES, root="", stack="trf_blocks", head="out_head")
_LAYER = re.compile(r"(?:^|\.)trf_blocks\.(\d{1,6})\.")


def is_one(saved: Saved) -> bool:
    """Tell such a state dict by the names of its tensors."""
    return saved.names(".tok_emb.", ".trf_blocks.")


def read(saved: Saved, n_head: int | None) -> Checkpoint:
    """Return the model and the tokenizer of a state dict; raises UserError where they cannot be read exactly.

    The model is GPT-2's, with or without biases of queries, keys and values; its shape is that of its tensors, which
    do not tell the number of heads. The head is a tensor of its own.
    """
    if n_head is None:
        why = "is needed for this checkpoint: its tensors do not tell it"
        raise UserError("n_head", "null", why, "give the model's n_heads, 12 in GPT_CONFIG_124M")
    tensors = tensors_of(saved.state, saved.path, "checkpoint")
    named = {_renamed(name): tensor for name, tensor in tensors.items()}
    weights = StateDict(saved.path, named, NAMING, "tensors")
    (vocab_size, width), (block_size, _), (n_inner, _) = (
        _shape(weights, name) for name in ("tok_emb.weight", "pos_emb.weight", "trf_blocks.0.ff.layers.0.weight")
    )
    layers = {int(match[1]) for name in named if (match := _LAYER.search(name))}
    config = GPTConfig(
        n_layer=max(layers) + 1,
        n_head=n_head,
        n_embd=width,
        n_inner=n_inner,
        block_size=block_size,
        vocab_size=vocab_size,
        qkv_bias="trf_blocks.0.att.W_query.bias" in weights,
        tied=False,
    )
    todo = "only models with GPT-2's tokenizer, as in the book, can be read"
    return Checkpoint(config, weights, gpt2_tokenizer(saved.path, vocab_size, todo), [])


def _renamed(name: str) -> str:
    """Return the name of a tensor with the words of PyTorch's own LayerNorm."""
    return re.sub(r"(norm\d?)\.scale$", r"\1.weight", re.sub(r"(norm\d?)\.shift$", r"\1.bias", name))


def _shape(weights: StateDict, name: str) -> tuple[int, int]:
    """Return the shape of a matrix."""
    tensor: Tensor = weights.tensor(name)
    why = f"its {name} is {list(tensor.shape)}, which is no matrix"
    require(tensor.dim() == 2, "checkpoint", weights.source, why, "take a whole checkpoint")
    return tensor.shape[0], tensor.shape[1]
