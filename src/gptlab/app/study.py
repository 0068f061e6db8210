"""Make the texts of a study: continuations of the same prompts by runs and decoders, or those in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.app.store import Source
from gptlab.decoding.decoders import Beam, Decoder
from gptlab.errors import UserError, require, require_choice
from gptlab.files import read_object
from gptlab.registry import options
from gptlab.runs.run_dir import RunDir

if TYPE_CHECKING:
    from gptlab.tokenizers import Tokenizer

Texts = dict[str, dict[str, str]]  # of each prompt, by the names of sources
MOST_BYTES = 1 << 28  # of a file of texts
ABOUT = ("val_loss", "val_perplexity", "val_bits_per_byte")  # what a source keeps of its run's summary


def decoders_of(names: Sequence[str]) -> dict[str, Decoder]:
    """Return decoders by the names of their options, with their usual settings."""
    known = {name: part for name, part in options("decoder").items() if part is not Beam}
    for name in names:
        require_choice("decoders", name, known)
    return {name: known[name]() for name in names}


def named(runs: Sequence[RunDir], decoders: Mapping[str, Decoder]) -> list[tuple[str, RunDir, str]]:
    """Return (source, run, decoder): a source is named by what tells it from the others."""
    titles = [run.title() for run in runs]
    titles = [
        title if titles.count(title) == 1 else f"{title} ({run.path})" for title, run in zip(titles, runs, strict=True)
    ]
    found = [
        (title if len(decoders) == 1 else name if len(runs) == 1 else f"{title}, {name}", run, name)
        for title, run in zip(titles, runs, strict=True)
        for name in decoders
    ]
    require(
        len({run.path.resolve() for run in runs}) == len(runs), "runs", runs[0].path, "is given twice", "give others"
    )
    return found


def usual_prompts(run: RunDir, number: int) -> list[str]:
    """Return openings of the documents that a run holds out; raises UserError where it keeps no text."""
    from gptlab.data.tokens.openings import openings
    from gptlab.data.tokens.shards import held_out_stream
    from gptlab.tokenizers import load_tokenizer

    todo = "give prompts=[...] or prompts_file=FILE"
    require(run.holds_out("text"), "prompts", "null", f"{run.path} keeps no held-out text to take them from", todo)
    stream, _ = held_out_stream(run.path / "held_out")
    found = openings(stream, load_tokenizer(run.path / "tokenizer"), number)
    require(bool(found), "prompts", "null", f"the held-out text of {run.path} has no openings to take", todo)
    return found


def continued(
    runs: Sequence[RunDir], decoders: Mapping[str, Decoder], prompts: Sequence[str], max_new_tokens: int, seed: int
) -> tuple[list[Source], Texts]:
    """Let each run continue each prompt by each decoder; a draw depends on the seed, the prompt and nothing else."""
    import torch

    from gptlab.decoding.context import Limits
    from gptlab.decoding.generate import draw_key
    from gptlab.decoding.texts import continue_prompts
    from gptlab.evaluation.model import load_language_model

    sources, texts = list[Source](), Texts({prompt: {} for prompt in prompts})
    loaded: dict[Path, tuple[Any, Tokenizer]] = {}
    for name, run, decoder in named(runs, decoders):
        if run.path not in loaded:
            loaded = {run.path: load_language_model(run, "runs")}  # one at a time
        gpt, tokenizer = loaded[run.path]
        gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu")
        limits = Limits(max_new_tokens, gpt.config.block_size, tokenizer.ends, tokenizer.n_vocab)
        keys = [draw_key(seed, prompt, 0) for prompt in prompts]
        drawn = continue_prompts(gpt, tokenizer, prompts, keys, decoders[decoder], limits, start=tokenizer.start)
        for each in drawn:
            texts[each.prompt][name] = each.text
        summary = run.summary()
        figures = {key: summary[key] for key in ABOUT if isinstance(summary.get(key), int | float)}
        sources.append(Source(name, {"run": str(run.path), "decoder": repr(decoders[decoder]), **figures}))
    return sources, texts


def read_texts(paths: Sequence[Path]) -> tuple[list[Source], Texts]:
    """Return the texts in files of `gptlab sample json=true`, one source each, of the prompts that are in all."""
    sources, of_source = list[Source](), dict[str, dict[str, str]]()
    for path in paths:
        found = read_object("texts", path, MOST_BYTES, "give files that gptlab sample json=true has printed")
        samples = found.get("samples")
        of_prompt = _of_prompts(samples) if isinstance(samples, list) else {}
        require(bool(of_prompt), "texts", path, "has no samples", "give files that gptlab sample json=true has printed")
        require(path.stem not in of_source, "texts", path, f"{path.stem} is the name of two", "rename one of them")
        of_source[path.stem] = of_prompt
        sources.append(
            Source(path.stem, {key: found[key] for key in ("run", "decoder") if isinstance(found.get(key), str)})
        )
    shared = [p for p in next(iter(of_source.values())) if all(p in others for others in of_source.values())]
    require(
        bool(shared),
        "texts",
        json.dumps([str(path) for path in paths]),
        "have no prompt in common",
        "give the same prompts to all",
    )
    return sources, {prompt: {name: texts[prompt] for name, texts in of_source.items()} for prompt in shared}


def _of_prompts(samples: Sequence[Any]) -> dict[str, str]:
    """Return the first text of each prompt."""
    found: dict[str, str] = {}
    for each in samples:
        if isinstance(each, dict) and isinstance(each.get("prompt"), str) and isinstance(each.get("text"), str):
            found.setdefault(each["prompt"], each["text"])
    return found


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "prompts_file", path, f"cannot be read ({error})", "give a text file, a prompt a line"
        ) from None
    found = list(dict.fromkeys(line for line in lines if line.strip()))
    require(bool(found), "prompts_file", path, "has no prompt", "write one a line")
    return found
