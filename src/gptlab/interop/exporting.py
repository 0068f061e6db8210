"""Write a run as a directory that transformers loads with no code of ours."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.errors import require
from gptlab.files import new_folder
from gptlab.interop.names import config_to, theirs
from gptlab.model.gpt import GPT, num_params
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer


def export_run(run: str, out: Path) -> dict[str, Any]:
    """Write model and tokenizer of a run (a directory, a checkpoint in it, or `latest`) into the new directory `out`.

    It is written whole or not at all. Returns the architecture and the number of parameters; raises UserError where
    Hugging Face has no such model.
    """
    require(not out.exists(), "out", out, "exists already", "give a new directory")
    gpt, tokenizer = RunDir.find(run).load()
    definition, ids = tokenizer.hf_definition(), special_ids(tokenizer)
    hf, padding = config_to(gpt.config) | ids, list(range(tokenizer.n_vocab, gpt.config.vocab_size))
    generation = ids | ({"suppress_tokens": padding} if padding else {})  # generate() then never draws it
    with new_folder(out) as work:
        (work / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
        (work / "generation_config.json").write_text(json.dumps(generation) + "\n")
        save_file(weights_of(gpt, hf["model_type"]), work / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(work, tokenizer, definition, gpt.config.block_size)
        for path in work.iterdir():
            path.chmod(0o644)
    return {"architecture": hf["architectures"][0], "parameters": num_params(gpt)}


def weights_of(gpt: GPT, model_type: str) -> dict[str, Tensor]:
    """Return the model's tensors under Hugging Face's names; a tied head is left out, as there."""
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


def special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ids of bos, eos and pad as config.json has them: an imported tokenizer's own, else eot for both."""
    declared, ends = tokenizer.declared, list(tokenizer.ends)
    bos = tokenizer.eot if not declared.ends else declared.bos
    found = {"bos_token_id": bos, "eos_token_id": ends[0] if len(ends) == 1 else ends, "pad_token_id": declared.pad}
    return {key: value for key, value in found.items() if key != "pad_token_id" or value is not None}


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, definition: str, block_size: int) -> None:
    """Write tokenizer.json, and the names of the special tokens and the chat template as transformers reads them."""
    declared = tokenizer.declared
    ids = {"bos": declared.bos, "eos": tokenizer.ends[0], "pad": declared.pad, "unk": declared.unk}
    if declared.bos is None and not declared.ends:
        ids["bos"] = tokenizer.eot
    if declared.unk is None:
        ids["unk"] = tokenizer.unknown
    names = {key: None if i is None else tokenizer.special_token(i) for key, i in ids.items()}
    special = {f"{key}_token": name for key, name in names.items() if name is not None}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size, **special}
    settings["clean_up_tokenization_spaces"] = False
    templates = declared.chat_template
    if templates is not None:
        several = (
            [{"name": name, "template": text} for name, text in templates.items()]
            if isinstance(templates, dict)
            else None
        )
        settings["chat_template"] = several or templates
    (folder / "tokenizer.json").write_text(definition)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
