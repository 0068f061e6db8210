"""The verb `export`: a run becomes a directory that transformers loads with no code of ours."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gptlab.errors import UserError, require
from gptlab.files import new_folder
from gptlab.interop.names import config_to, theirs
from gptlab.model.gpt import GPT, num_params
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import EOT, UNKNOWN, BytePairTokenizer, CharTokenizer, JSONTokenizer, Tokenizer


def export(name: str, folder: str) -> dict[str, Any]:
    """Write `out` whole or not at all; returns what was written."""
    out = Path(folder)
    require(not out.exists(), "out", out, "exists already", "give a new directory")
    gpt, tokenizer = RunDir.find(name).load()
    ends = {"bos_token_id": tokenizer.eot, "eos_token_id": tokenizer.eot}
    hf, padding = config_to(gpt.config) | ends, list(range(tokenizer.n_vocab, gpt.config.vocab_size))
    with new_folder(out) as work:
        (work / "config.json").write_text(json.dumps(hf, indent=2) + "\n")
        save_file(weights_of(gpt, hf["model_type"]), work / "model.safetensors", metadata={"format": "pt"})
        _write_tokenizer(work, tokenizer, gpt.config.block_size)
        if padding:  # generate() then never draws it
            (work / "generation_config.json").write_text(json.dumps(ends | {"suppress_tokens": padding}) + "\n")
    print(f"exported {num_params(gpt):,} parameters as {hf['architectures'][0]} into {out}")
    return {"out": str(out), "architecture": hf["architectures"][0], "parameters": num_params(gpt)}


def weights_of(gpt: GPT, model_type: str) -> dict[str, Tensor]:
    """The model's tensors under Hugging Face's names; a tied head is left out, as there."""
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
    match tokenizer:
        case BytePairTokenizer():
            definition = _byte_pair(tokenizer)
        case CharTokenizer():
            definition = _characters(tokenizer)
        case JSONTokenizer():
            definition = tokenizer.definition
        case _:
            raise UserError("run", folder, f"has a {type(tokenizer).__name__}", "it cannot be exported")
    (folder / "tokenizer.json").write_text(definition)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size}
    if not isinstance(tokenizer, JSONTokenizer):
        settings |= {"bos_token": EOT, "eos_token": EOT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _byte_pair(tokenizer: BytePairTokenizer) -> str:
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import decoders, models, pre_tokenizers

    vocab, merges = tokenizer.vocab_and_merges()
    hf = HFTokenizer(models.BPE(vocab, merges))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.add_special_tokens([EOT])
    definition: str = hf.to_str()
    return definition


def _characters(tokenizer: CharTokenizer) -> str:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as HFTokenizer

    ids = tokenizer.ids | {EOT: tokenizer.eot, UNKNOWN: tokenizer.unknown}
    hf = HFTokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    hf.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    hf.decoder = decoders.Fuse()
    hf.add_special_tokens([EOT, UNKNOWN])
    definition: str = hf.to_str()
    return definition
