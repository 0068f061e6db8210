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
from gptlab.files import new_folder
from gptlab.interop.names import config_from, theirs
from gptlab.interop.tokenizer_files import read_tokenizer
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params
from gptlab.tokenizers import Tokenizer

FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "*.jinja", "chat_template.json"]


def import_directory(name: str, out: Path) -> dict[str, Any]:
    """Write a model from a directory, or OWNER/NAME on the hub, into the run directory `out`, completely or not at all.

    Returns the run's summary, and lines to be `said` about its tokenizer; raises UserError if the model cannot be
    expressed here.
    """
    source = find(name)
    require(not out.exists(), "out", out, "exists already", "give a new directory")
    hf = _json(source / "config.json")
    try:
        model_config = config_from(hf)
    except KeyError as error:
        raise UserError("hf", name, f"its config.json lacks {error}", "take a complete one") from error
    tokenizer, said = read_tokenizer(source, hf)
    with new_folder(out) as work:
        return {**_write(work, source, hf["model_type"], model_config, tokenizer, name), "said": said}


def find(name: str) -> Path:
    """Return the path of a local directory; download any other name as a hub repository."""
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    on_a_hub = "/" in name and not name.startswith((".", "/", "~"))
    require(on_a_hub, "hf", name, "no such directory", "give one, or OWNER/NAME on the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*FILES, *TOKENIZER_FILES]))
    except Exception as error:  # the hub client has many: no network, no such name, no permission
        why = f"cannot be downloaded ({type(error).__name__}: {reason(error)})"
        raise UserError("hf", name, why, "give a directory") from error


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
        where = {name: source / file for name, file in _json(index)["weight_map"].items()}
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
    torch.save({"model": vars(config), "state_dict": state}, work / "checkpoints/last.ckpt")
    tokenizer.save(work / "tokenizer")
    record = {"model": vars(config), "imported_from": name, "sample_prompts": []}
    (work / "config.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    summary = {"status": "finished", "parameters": parameters, "steps": 0, "imported_from": name}
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError("hf", path, f"cannot be read ({type(error).__name__})", "give a whole directory") from error
    return content
