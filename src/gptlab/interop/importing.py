"""Turn a Hugging Face directory into a run directory."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gptlab.checksums import list_files
from gptlab.errors import UserError, reason, require
from gptlab.files import new_folder, read_object, require_new
from gptlab.interop.families import FAMILIES
from gptlab.interop.names import config_from, ours
from gptlab.interop.peft_files import SETTINGS, AdaptedFiles, Peft
from gptlab.interop.places import directory
from gptlab.interop.weight_files import WeightFiles
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params
from gptlab.model.meta_device import on_meta
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import panics
from gptlab.tokenizers.directory import read_tokenizer

MOST_JSON = 1 << 28  # bytes


def import_directory(name: str, out: Path) -> dict[str, Any]:
    """Write a model from a directory, or OWNER/NAME on the hub, into the run directory `out`, completely or not at all.

    A directory that peft has saved becomes the model that it was trained on, with its LoRA merged. Returns the run's
    summary, and what is to be `said` of its tokenizer; raises UserError where the model cannot be expressed here.
    """
    source = directory(name)
    require_new(out)
    peft = Peft(source) if (source / SETTINGS).is_file() and not (source / "config.json").is_file() else None
    source = directory(peft.base) if peft else source
    hf = read_object("hf", source / "config.json", MOST_JSON, "give a whole directory")
    try:
        model_config = config_from(hf)
        with panics(source):
            tokenizer, said = read_tokenizer(source, hf)
    except KeyError as error:
        raise UserError("hf", name, f"its config.json lacks {error}", "take a complete one") from error
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare ones
        why = f"cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError("hf", name, why, "take a complete one") from error
    with new_folder(out) as work:
        weights = read_weights(source, hf["model_type"], model_config, peft)
        return {**write_run(work, weights, hf["model_type"], model_config, tokenizer, name), "said": said}


def read_weights(source: Path, model_type: str, config: GPTConfig, peft: Peft | None = None) -> dict[str, Tensor]:
    """Read our tensors in fp32 from the weights of a directory, with a LoRA merged into them."""
    family = FAMILIES[model_type]
    return weights_from(AdaptedFiles(source, family, peft) if peft else WeightFiles(source, family), config)


def weights_from(files: WeightFiles, config: GPTConfig) -> dict[str, Tensor]:
    """Read our tensors in fp32, each by itself, so that memory never holds a second copy of the model.

    Raises UserError where one is missing, left over, of another shape or no tensor of floating-point numbers.
    """
    family, todo = files.family, f"its {files.declared} must belong to its weights"
    few = config.n_layer <= len(files.full)  # before so many layers are made
    require(few, files.key, files.source, f"has {len(files.full)} tensors for {config.n_layer} layers", todo)
    with on_meta():
        expected = GPT(config).state_dict()
    weights: dict[str, Tensor] = {}
    for name, meta in expected.items():
        if name == "lm_head.weight" and config.tied:
            continue
        tensor = ours(family, name, config, files.tensor)
        shapes = f"{list(tensor.shape)} instead of {list(meta.shape)}"
        why = f"its {family.theirs(name)[0]} is {shapes}"
        require(tensor.shape == meta.shape, files.key, files.source, why, todo)
        weights[name] = tensor.to(torch.float32).contiguous()
    if config.tied:
        weights["lm_head.weight"] = weights["wte.weight"]
        head = f"{family.head}.weight"
        same = head not in files or torch.equal(files.tensor(head).to(torch.float32), weights["wte.weight"])
        why = f"its {head} is not its embedding, which {files.tie} says"
        require(same, files.key, files.source, why, todo)
    files.finish()
    return weights


def write_run(
    work: Path, weights: dict[str, Tensor], model_type: str, config: GPTConfig, tokenizer: Tokenizer, name: str
) -> dict[str, Any]:
    """Write an imported model into the folder `work` as a run; returns its summary."""
    with on_meta():
        parameters = num_params(GPT(config))
    (work / "checkpoints").mkdir()
    (work / "tokenizer").mkdir()
    state = {f"gpt.{key}": tensor for key, tensor in weights.items()}
    checkpoint = work / "checkpoints/last.ckpt"
    torch.save({"model": vars(config), "state_dict": state}, checkpoint)
    tokenizer.save(work / "tokenizer")
    for folder in (checkpoint.parent, work / "tokenizer"):
        list_files(folder)
    record = {"model": vars(config), "imported_from": name, "model_type": model_type, "sample_prompts": []}
    (work / "config.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    summary = {"status": "finished", "parameters": parameters, "steps": 0, "imported_from": name}
    (work / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
