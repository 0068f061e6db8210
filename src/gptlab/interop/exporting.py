"""Write a run as a directory that transformers loads without code of ours."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.errors import require
from gptlab.files import new_folder, require_new
from gptlab.interop.names import config_to, theirs
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params
from gptlab.model.heads import parameters_beside
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer


def export_run(run: RunDir, out: Path, head: Callable[[GPT], Any] = lambda gpt: gpt) -> dict[str, Any]:
    """Write model and tokenizer of a run into the new directory `out`, whole or not at all.

    `head` gives the model the head of the run's task (`Task.head`). Returns the architecture and the number of
    parameters; raises UserError if Hugging Face has no such model.
    """
    require_new(out)
    gpt, tokenizer = run.load(head)
    why, todo = (
        f"its model, {name_of(gpt.config)}, is none of Hugging Face's",
        "export a run with model=gpt or a preset of it",
    )
    require(type(gpt.config) is GPTConfig, "run", run.path, why, todo)
    beside = sorted(parameters_beside(gpt))
    why = f"has the head of another task ({type(gpt).__name__}: {', '.join(beside[:4])}), which no exported format has"
    todo = "load it in Python, gptlab.load(RUN), or export the run that it began with"
    require(isinstance(gpt, GPT) and not beside, "run", run.path, why, todo)
    ends = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    hf, padding = config_to(gpt.config) | ends, list(range(tokenizer.n_vocab, gpt.config.vocab_size))
    with new_folder(out) as work:
        (work / "config.json").write_text(json.dumps(hf, indent=2) + "\n", encoding="utf-8")
        save_file(weights_of(gpt, hf["model_type"]), work / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(work, tokenizer, gpt.config.block_size)
        if padding:  # generate() then never draws it
            (work / "generation_config.json").write_text(
                json.dumps(ends | {"suppress_tokens": padding}) + "\n", encoding="utf-8"
            )
    return {"architecture": hf["architectures"][0], "parameters": num_params(gpt)}


def weights_of(gpt: GPT, model_type: str) -> dict[str, Tensor]:
    """Return the model's tensors under Hugging Face's names; a tied head is left out, as Hugging Face does."""
    config, weights = gpt.config, {}
    for name, tensor in gpt.state_dict().items():
        if name == "lm_head.weight" and config.tied:
            continue
        parts, transposed = theirs(model_type, name)
        rows = [tensor.shape[0]]
        if len(parts) == 3:
            rows = [heads * config.head_dim for heads in (config.n_head, config.kv_heads, config.kv_heads)]
        for part, piece in zip(parts, tensor.split(rows), strict=True):
            weights[part] = (piece.T if transposed else piece).contiguous()
    return weights


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, block_size: int) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.hf_definition(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size}
    if tokenizer.special is not None:
        settings |= {"bos_token": tokenizer.special, "eos_token": tokenizer.special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
