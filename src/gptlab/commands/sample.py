"""The verb `sample`: a run directory and prompts in, text out."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from gptlab.commands.configs import SampleConfig
from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Beam, TopP
from gptlab.decoding.generate import draw_key
from gptlab.decoding.inspect import inspect
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.onednn import pack
from gptlab.decoding.texts import Continuation, best_continuations, continue_prompts, with_ids
from gptlab.errors import UserError, require
from gptlab.evaluation.frontier import frontier_rows
from gptlab.model.gpt import GPT
from gptlab.reporting.frontier import frontier_table, write_frontier_page
from gptlab.reporting.inspection import inspection_table, write_inspection_page
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer

DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16}


def sample(config: SampleConfig) -> dict[str, Any]:
    """Print continuations of the prompts.

    Returns {"samples": [{"prompt", "text", "ids", "logprob", "logprobs"}]}: the new text, its ids, and the
    log-probability under the model of all of them and of each.
    """
    run = RunDir.find(config.run)
    prompts = config.prompts or [config.prompt or next(iter(run.sample_prompts()), "")]
    require("" not in prompts, "prompt", "null", "the run has no sample prompt", 'give one, e.g. prompt="Once upon"')
    gpt, tokenizer = run.load()
    gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu", DTYPES[config.precision])
    pack(gpt)
    limits = Limits(config.max_new_tokens, gpt.config.block_size, tokenizer.eot, tokenizer.n_vocab, config.overflow)
    processors = with_ids(config.logits_processors, tokenizer)
    if isinstance(config.decoder, TopP) and config.decoder.p < 1 and config.decoder.temperature not in (0, 1):
        print("hint: temperature and top-p both shape the distribution; change one at a time", file=sys.stderr)
    if isinstance(config.decoder, Beam):
        samples = [found.record() for found in _search(config, gpt, tokenizer, prompts, limits, processors)]
    else:
        drawn = _draw(config, gpt, tokenizer, prompts, limits, processors)
        samples = [found.record() for found in drawn]
        if config.explain:
            for record, found in zip(samples, drawn, strict=True):
                record["steps"] = [inspect(step, config.decoder) for step in found.steps]
            _explain(run, tokenizer, repr(config.decoder), samples)
    told = {"run": str(run.path), "decoder": repr(config.decoder), "logits_processors": processors.active}
    return {**told, "samples": samples}


def frontier(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Print and write RUN/frontier.html and .json: a row for each result of `sample`, all of one run."""
    run, console = RunDir.find(results[0]["run"]), Console()
    rows, page = frontier_rows(run, results), run.path / "frontier.html"
    console.print(frontier_table(rows))
    write_frontier_page(page, rows)
    (run.path / "frontier.json").write_text(json.dumps(rows, indent=2) + "\n")
    console.print(f"the page is {page}", markup=False, soft_wrap=True)
    return {"frontier": rows, "page": str(page)}


def _explain(run: RunDir, tokenizer: Tokenizer, decoder: str, samples: Sequence[dict[str, Any]]) -> None:
    """Print what each token was chosen from, and write it into RUN/explain.html."""
    console, page = Console(), run.path / "explain.html"
    for found in samples:
        console.print(inspection_table(found, tokenizer.spell))
    write_inspection_page(page, decoder, samples, tokenizer.spell)
    console.print(f"the page is {page}", markup=False, soft_wrap=True)


def _draw(
    config: SampleConfig,
    gpt: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    limits: Limits,
    processors: LogitsProcessors,
) -> list[Continuation]:
    """Print `num_samples` texts of each prompt; a single one is shown as it comes."""
    console = Console()
    asked = [(prompt, sample) for prompt in prompts for sample in range(config.num_samples)]
    alone = len(asked) == 1

    def said(row: int, text: str) -> None:
        if alone:
            console.print(Text(text), end="", soft_wrap=True)

    if alone:
        console.print(Text(prompts[0], style="bold"), end="", soft_wrap=True)
    keys = [draw_key(config.seed, prompt, sample) for prompt, sample in asked]
    rows = [prompt for prompt, _ in asked]
    found = continue_prompts(gpt, tokenizer, rows, keys, config.decoder, limits, processors, config.stop, said)
    if alone:
        console.print()
    else:
        _show(console, found)
    return found


def _search(
    config: SampleConfig,
    gpt: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    limits: Limits,
    processors: LogitsProcessors,
) -> list[Continuation]:
    """Print the `num_samples` best texts that beam search finds for each prompt."""
    if processors.active or config.stop:
        key = f"logits_processors.{processors.active[0]}" if processors.active else "stop"
        raise UserError(key, "given", "beam search searches the model's own distribution", "leave it out")
    samples = []
    for prompt in prompts:
        found = best_continuations(gpt, tokenizer, prompt, config.decoder, limits, config.num_samples)
        _show(Console(), found)
        samples += found
    return samples


def _show(console: Console, samples: Sequence[Continuation]) -> None:
    for found in samples:
        console.print(Text(found.prompt, style="bold") + Text(found.text, style="not bold"), soft_wrap=True)
        console.rule(style="dim")
