"""Read the checkpoints of nanoGPT: `ckpt.pt`, and the meta.pkl of character data."""

from pathlib import Path
from typing import Any

from gptlab.errors import UserError, require
from gptlab.interop.families.gpt2 import NAMES
from gptlab.interop.family import Fields, Naming
from gptlab.interop.state_dict import Checkpoint, Saved, flag, gpt2_tokenizer, whole
from gptlab.interop.weight_files import StateDict, tensors_of
from gptlab.model.config import GPTConfig
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.char import CharTokenizer, NanoGPT

NAMING = Naming("nanoGPT", names=NAMES, root="transformer.", stack="h")
SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")


def is_one(saved: Saved) -> bool:
    """Tell a checkpoint of nanoGPT by its model_args, or by the names of its tensors."""
    return "model_args" in saved.content or saved.names(".attn.c_attn.")


def read(saved: Saved) -> Checkpoint:
    """Return the model and the tokenizer of a checkpoint; raises UserError where they cannot be read exactly.

    The model is GPT-2's with the exact GELU, which nanoGPT has had since June 2023, a tied head, and biases or not.
    """
    args, todo = saved.content.get("model_args"), "give the ckpt.pt that train.py has written"
    require("model_args" in saved.content, "checkpoint", saved.path, "has no model_args, which say its shape", todo)
    require(isinstance(args, dict), "checkpoint", saved.path, "its model_args are not keys with values", todo)
    fields = Fields({**dict(args or {}), "model_type": "nanoGPT"})
    sizes: dict[str, Any] = {key: whole(fields[key], key) for key in SIZES}
    bias = flag(fields.get("bias", True), "bias")  # the first checkpoints do not say it: they have them
    config = GPTConfig(**sizes, bias=bias, feed_forward="gelu_exact", tied=True)
    fields.finish()
    tokenizer, said = _tokenizer(saved, config.vocab_size)
    tensors = tensors_of(saved.content.get("model"), saved.path, "checkpoint")
    return Checkpoint(config, StateDict(saved.path, tensors, NAMING, "model_args"), tokenizer, said)


def _tokenizer(saved: Saved, vocab_size: int) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer as nanoGPT's sample.py finds it: characters of a meta.pkl, or else GPT-2's."""
    meta = next((path for path in _places(saved) if path.is_file()), None)
    if meta is None:
        todo = "put the meta.pkl of its data beside it"
        return gpt2_tokenizer(saved.path, vocab_size, todo), []
    try:
        found = NanoGPT(str(meta)).build([])
    except UserError as error:
        raise UserError("checkpoint", meta, error.why, error.todo) from error
    assert isinstance(found, CharTokenizer)
    why = f"has {len(found.characters)} characters, and the model of {saved.path} has {vocab_size} ids"
    require(len(found.characters) == vocab_size, "checkpoint", meta, why, "put the meta.pkl of its own data beside it")
    tokenizer = CharTokenizer(found.characters, closed=True)
    first = found.characters[tokenizer.eot]
    return tokenizer, [f"its {vocab_size} ids are those of characters alone ({meta}): {first!r} stands before a text"]


def _places(saved: Saved) -> list[Path]:
    """Return where the meta.pkl of a checkpoint can be: beside it, or in the data folder of the dataset it names."""
    beside, config = saved.path.absolute().parent, saved.content.get("config")
    dataset: Any = config.get("dataset") if isinstance(config, dict) else None
    places = [beside / "meta.pkl"]
    if isinstance(dataset, str) and dataset not in ("", ".", "..") and Path(dataset).name == dataset:
        places += [folder / "data" / dataset / "meta.pkl" for folder in (beside, beside.parent, Path.cwd())]
    return places
