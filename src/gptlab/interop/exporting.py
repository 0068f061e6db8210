"""Write a run as a directory that transformers loads without code of ours."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from gptlab.errors import require
from gptlab.files import new_folder
from gptlab.interop.classifiers import classifier_to, padding_id
from gptlab.interop.families import FAMILIES
from gptlab.interop.folded import fold
from gptlab.interop.names import config_to, weights_of
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_weights
from gptlab.model.heads import LastTokenHead, parameters_beside, trunk_of
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatTemplate
from gptlab.tokenizers.directory import read_alike


def export_run(
    run: RunDir,
    out: Path,
    head: Callable[[GPT], Any] = lambda gpt: gpt,
    chat_template: Callable[[Tokenizer], ChatTemplate | None] = lambda tokenizer: None,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write model and tokenizer of a run into the new directory `out`, whole or not at all.

    `head` gives the model the head of the run's task (`Task.head`), and `chat_template` the template by which the task
    reads conversations, None where it reads none: then the tokenizer's own is written. With `labels` the run is a
    classifier, and so is what is written. Returns the architecture and the number of parameters; raises UserError if
    Hugging Face has no such model.
    """
    gpt, tokenizer = loaded(run, head, LastTokenHead if labels else GPT)
    definition, template = tokenizer.hf_definition(), chat_template(tokenizer)
    ids = special_ids(tokenizer, template.ends if template else None)
    kinds = [kind for kind in FAMILIES if read_alike(definition, kind)]  # transformers reads the tokenizer by the kind
    prefer, files = run.config().get("model_type"), dict[str, dict[str, Any]]()
    if labels:
        pad = padding_id(tokenizer)
        hf, weights = classifier_to(gpt, labels, prefer, kinds)
        hf |= ids | {"pad_token_id": pad}
    else:
        pad, hf = tokenizer.declared.pad, config_to(gpt.config, prefer, kinds) | ids
        weights, padding = weights_of(gpt, hf), list(range(tokenizer.n_vocab, gpt.config.vocab_size))
        never = {"suppress_tokens": padding} if padding else {}  # generate() then never draws it
        files["generation_config.json"] = ids | never
    with new_folder(out) as work:
        (work / "config.json").write_text(json.dumps(hf, indent=2) + "\n", encoding="utf-8")
        for name, values in files.items():
            (work / name).write_text(json.dumps(values) + "\n", encoding="utf-8")
        save_file(weights, work / "model.safetensors", metadata={"format": "pt"})
        jinja = template.text if template else tokenizer.declared.chat_template
        _write_tokenizer(work, tokenizer, definition, gpt.config.block_size, jinja, pad)
        for path in work.iterdir():
            path.chmod(0o644)
    return {"architecture": hf["architectures"][0], "parameters": num_weights(gpt)}


def loaded(run: RunDir, head: Callable[[GPT], Any], kind: type[nn.Module] = GPT) -> tuple[Any, Tokenizer]:
    """Return the model, of the standard parametrization, and the tokenizer of a run.

    Raises UserError where it is not a GPT alone, or with a head of a kind.
    """
    gpt, tokenizer = run.load(head)
    why, todo = (
        f"its model, {name_of(gpt.config)}, is none of Hugging Face's",
        "export a run with model=gpt or a preset of it",
    )
    require(type(gpt.config) is GPTConfig, "run", run.path, why, todo)
    beside = sorted(parameters_beside(gpt))
    why = f"has the head of a task ({type(gpt).__name__}: {', '.join(beside[:4])}), which this format has no place for"
    todo = "load it in Python, gptlab.load(RUN), or export the run that it began with"
    known = isinstance(gpt, kind) and (kind is not GPT or not beside)
    require(known, "run", run.path, why, todo)
    fold(trunk_of(gpt))
    gpt.config = trunk_of(gpt).config
    return gpt, tokenizer


def special_ids(tokenizer: Tokenizer, ends: Sequence[int] | None = None) -> dict[str, Any]:
    """Return the ids of bos, eos and pad as config.json has them: an imported tokenizer's own, else eot for both.

    Each of `ends` ends a text, instead of the tokenizer's own.
    """
    declared, ends = tokenizer.declared, tokenizer.ends if ends is None else ends
    bos = tokenizer.eot if not declared.ends else declared.bos
    eos = list(ends) if len(ends) > 1 else next(iter(ends), None)
    found = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": declared.pad}
    return {key: value for key, value in found.items() if key != "pad_token_id" or value is not None}


def _write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    definition: str,
    block_size: int,
    template: str | dict[str, str] | None,
    pad: int | None,
) -> None:
    """Write tokenizer.json, and the names of the special tokens and the chat template as transformers reads them."""
    declared = tokenizer.declared
    ids = {"bos": declared.bos, "eos": next(iter(tokenizer.ends), None), "pad": pad, "unk": declared.unk}
    if declared.bos is None and not declared.ends:
        ids["bos"] = tokenizer.eot
    if declared.unk is None:
        ids["unk"] = tokenizer.unknown
    names = {key: None if i is None else tokenizer.special_token(i) for key, i in ids.items()}
    special = {f"{key}_token": name for key, name in names.items() if name is not None}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": block_size, **special}
    settings["clean_up_tokenization_spaces"] = False
    if isinstance(template, dict):
        settings["chat_template"] = [{"name": name, "template": text} for name, text in template.items()]
    elif template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer.json").write_text(definition, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
