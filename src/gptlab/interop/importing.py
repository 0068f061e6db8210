"""Turn a Hugging Face directory of GPT-2 or Llama into a run directory."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptlab.errors import UserError, reason, require
from gptlab.files import new_folder, read_bounded, read_json, require_new
from gptlab.interop.names import config_from, theirs
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params
from gptlab.runs.checkpoint_file import digest, write_checksums
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import panics
from gptlab.tokenizers.bpe import from_gpt2_vocab
from gptlab.tokenizers.hf import JSONTokenizer
from gptlab.tokenizers.openai import OpenAI

MOST_JSON = 1 << 28  # bytes
FILES = ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*", "vocab.json", "merges.txt"]


def import_directory(name: str, out: Path) -> dict[str, Any]:
    """Write a model from a directory, or OWNER/NAME on the hub, into the run directory `out`, completely or not at all.

    Returns the run's summary; raises UserError if the model cannot be expressed here.
    """
    source = find(name)
    require_new(out)
    hf = _json(source / "config.json")
    try:
        model_config = config_from(hf)
        tokenizer = read_tokenizer(source, hf)
    except KeyError as error:
        raise UserError("hf", name, f"its config.json lacks {error}", "take a complete one") from error
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare ones
        why = f"cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError("hf", name, why, "take a complete one") from error
    require(
        tokenizer.n_vocab <= model_config.vocab_size,
        "hf",
        name,
        f"its tokenizer has {tokenizer.n_vocab} tokens, its model {model_config.vocab_size}",
        "take the tokenizer that belongs to it",
    )
    with new_folder(out) as work:
        return _write(work, source, hf["model_type"], model_config, tokenizer, name)


def find(name: str) -> Path:
    """Return the path of a local directory; download any other name as a hub repository."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    on_a_hub = "/" in name and not name.startswith((".", "/", "~"))
    require(on_a_hub, "hf", name, "no such directory", "give one, or OWNER/NAME on the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the hub client has many: no network, no such name, no permission
        why = f"cannot be downloaded ({type(error).__name__}: {reason(error)})"
        raise UserError("hf", name, why, "give a directory") from error


def read_tokenizer(source: Path, hf: dict[str, Any]) -> Tokenizer:
    """Read GPT-2's tokenizer from the directory's own files, any other from its tokenizer.json."""
    path = source / "tokenizer.json"
    if hf["model_type"] == "gpt2":
        if (source / "vocab.json").is_file():
            return from_gpt2_vocab(_json(source / "vocab.json"))
        if path.is_file() and (model := _json(path)["model"])["type"] == "BPE":
            return from_gpt2_vocab(model["vocab"])
        if not path.is_file() and hf["vocab_size"] == 50257:
            return OpenAI().build([])
    require(path.is_file(), "hf", source, "has no tokenizer.json", "give a directory with its tokenizer")
    eos = hf.get("eos_token_id")
    try:
        with panics(path):
            definition = read_bounded(path, MOST_JSON).decode()
            return JSONTokenizer(definition, eos[0] if isinstance(eos, list) else eos or 0)
    except UserError:
        raise
    except Exception as error:  # the library raises bare ones
        raise UserError("hf", path, f"cannot be read ({reason(error)})", "give a whole directory") from error


def read_weights(source: Path, model_type: str, config: GPTConfig) -> dict[str, Tensor]:
    """Read our tensors in fp32, each by itself, so that memory never holds a second copy of the model."""
    with torch.device("meta"):
        expected = GPT(config).state_dict()
    where = _where(source)
    # GPT-2's own file names its tensors without the root module
    bare = "transformer.wte.weight" not in where
    weights: dict[str, Tensor] = {}
    for name, meta in expected.items():
        if name == "lm_head.weight" and config.tied:
            continue
        parts, transposed = theirs(model_type, name)
        found = []
        for part in parts:
            part = part.removeprefix("transformer.") if bare else part
            require(part in where, "hf", source, f"has no tensor {part}", "take a complete download")
            with _opened(where[part]) as file:
                tensor = file.get_tensor(part)
            found.append(tensor.T if transposed else tensor)
        shapes = f"{[list(t.shape) for t in found]} instead of {list(meta.shape)}"
        fits = all(t.shape[1:] == meta.shape[1:] for t in found) and sum(t.shape[0] for t in found) == meta.shape[0]
        require(fits, "hf", source, f"its {parts[0]} is {shapes}", "its config.json must belong to its weights")
        weights[name] = torch.cat(found).to(torch.float32).contiguous()
    if config.tied:
        weights["lm_head.weight"] = weights["wte.weight"]
    return weights


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raises UserError if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError("hf", path, f"cannot be read ({reason(error)})", "download it again") from error


def _where(source: Path) -> dict[str, Path]:
    """Return the file that holds each tensor."""
    index = source / "model.safetensors.index.json"
    if index.is_file():
        files = _json(index).get("weight_map")
        plain = isinstance(files, dict) and all(
            isinstance(file, str) and Path(file).name == file for file in files.values()
        )
        require(plain, "hf", index, "does not name files of its folder", "take a complete download")
        where = {name: source / file for name, file in dict(files or {}).items()}
    else:
        single = source / "model.safetensors"
        require(single.is_file(), "hf", source, "has no model.safetensors", "convert its weights to safetensors first")
        with _opened(single) as file:
            where = dict.fromkeys(file.keys(), single)
    for path in set(where.values()):
        require(path.is_file(), "hf", path, "no such file", "take a complete download")
    return where


def _write(
    work: Path, source: Path, model_type: str, config: GPTConfig, tokenizer: Tokenizer, name: str
) -> dict[str, Any]:
    weights = read_weights(source, model_type, config)
    with torch.device("meta"):
        parameters = num_params(GPT(config))
    (work / "checkpoints").mkdir()
    (work / "tokenizer").mkdir()
    state = {f"gpt.{key}": tensor for key, tensor in weights.items()}
    checkpoint = work / "checkpoints/last.ckpt"
    torch.save({"model": vars(config), "state_dict": state}, checkpoint)
    write_checksums(checkpoint.parent, {checkpoint.name: [digest(checkpoint)]})
    tokenizer.save(work / "tokenizer")
    record = {"model": vars(config), "imported_from": name, "sample_prompts": []}
    (work / "config.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    summary = {"status": "finished", "parameters": parameters, "steps": 0, "imported_from": name}
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _json(path: Path) -> dict[str, Any]:
    todo = "give a whole directory"
    try:
        content = read_json(path, MOST_JSON)
    except (OSError, ValueError) as error:
        raise UserError("hf", path, f"cannot be read ({type(error).__name__}: {reason(error)})", todo) from error
    require(isinstance(content, dict), "hf", path, "does not hold keys with values", todo)
    return dict(content)
