"""The verb `sample`: a run directory and prompts in, text out."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from gptlab.commands.configs import SampleConfig
from gptlab.decoding.decoders import Beam, TopP
from gptlab.decoding.generate import Limits, Step, beam_search, generate
from gptlab.decoding.inspect import inspect
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.onednn import pack
from gptlab.decoding.streaming import TextStream
from gptlab.errors import UserError, require
from gptlab.model.gpt import GPT
from gptlab.reporting.inspection import explain
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer

DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16}


def sample(config: SampleConfig) -> dict[str, Any]:
    """Print continuations of the prompts; returns {"samples": [{"prompt", "text", "ids", "logprob", "logprobs"}]}: the
    new text, its ids, and the log-probability under the model of all and of each of them."""
    run = RunDir.find(config.run)
    asked = config.prompts or [config.prompt or next(iter(run.sample_prompts()), "")]
    require("" not in asked, "prompt", "null", "the run has no sample prompt", 'give one, e.g. prompt="Once upon"')
    gpt, tokenizer = run.load()
    gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu", DTYPES[config.precision])
    pack(gpt)
    limits = Limits(config.max_new_tokens, gpt.config.block_size, tokenizer.eot, tokenizer.n_vocab, config.overflow)
    controls = with_ids(config.controls, tokenizer)
    if isinstance(config.decoder, TopP) and config.decoder.p < 1 and config.decoder.temperature not in (0, 1):
        print("hint: temperature and top-p both shape the distribution; change one at a time", file=sys.stderr)
    if isinstance(config.decoder, Beam):
        samples = _search(config, gpt, tokenizer, asked, limits, controls)
    else:
        samples, steps = _draw(config, gpt, tokenizer, asked, limits, controls)
        if config.explain:
            for found, row in zip(samples, steps, strict=True):
                found["steps"] = [inspect(step, config.decoder) for step in row]
            explain(run, tokenizer, config.decoder, samples)
    return {"run": str(run.path), "decoder": repr(config.decoder), "controls": controls.active, "samples": samples}


def with_ids(controls: LogitsProcessors, tokenizer: Tokenizer) -> LogitsProcessors:
    """Banned texts as their token ids."""
    banned = []
    for given in controls.banned:
        ids = [given] if isinstance(given, int) else tokenizer.encode(str(given))
        why = f"is {len(ids)} tokens" if len(ids) != 1 else f"is not one of the {tokenizer.n_vocab} ids"
        fits = len(ids) == 1 and 0 <= ids[0] < tokenizer.n_vocab
        require(fits, "controls.banned", given, why, "give ids, or texts that are one token each")
        banned += ids
    return LogitsProcessors(**{**vars(controls), "banned": banned})


def _draw(
    config: SampleConfig,
    gpt: GPT,
    tokenizer: Tokenizer,
    asked: Sequence[str],
    limits: Limits,
    controls: LogitsProcessors,
) -> tuple[list[dict[str, Any]], list[list[Step]]]:
    """`num_samples` texts of each prompt, all in one batch; a single one is shown as it comes."""
    console = Console()
    keys = [(config.seed, p, s) for p in range(len(asked)) for s in range(config.num_samples)]
    prompts = [asked[p] for _, p, _ in keys]
    streams = [TextStream(tokenizer.decode, config.stop) for _ in keys]
    steps: list[list[Step]] = [[] for _ in keys]
    alone = len(keys) == 1
    if alone:
        console.print(Text(prompts[0], style="bold"), end="", soft_wrap=True)
    new = generate(
        gpt,
        [tokenizer.encode(prompt) for prompt in prompts],
        config.decoder,
        limits,
        keys,
        controls,
        ended=lambda row, token: streams[row].stopped,
    )
    for step in new:
        steps[step.row].append(step)
        text = streams[step.row].add(step.token)
        if alone:
            console.print(Text(text), end="", soft_wrap=True)
    rest = [stream.end() for stream in streams]
    if alone:
        console.print(Text(rest[0]), soft_wrap=True)
    samples = []
    for prompt, stream, row in zip(prompts, streams, steps, strict=True):
        logprobs = [step.logprob for step in row]
        scored = {"logprob": sum(logprobs), "logprobs": logprobs}
        samples.append({"prompt": prompt, "text": stream.text, "ids": stream.ids, **scored})
        if not alone:
            _show(console, prompt, stream.text)
    return samples, steps


def _search(
    config: SampleConfig,
    gpt: GPT,
    tokenizer: Tokenizer,
    asked: Sequence[str],
    limits: Limits,
    controls: LogitsProcessors,
) -> list[dict[str, Any]]:
    """The `num_samples` best texts that beam search finds for each prompt."""
    console, beam, samples = Console(), config.decoder, []
    if controls.active or config.stop:
        key = f"controls.{controls.active[0]}" if controls.active else "stop"
        raise UserError(key, "given", "beam search searches the model's own distribution", "leave it out")
    why = f"beam search with {beam.beams} beams finds no more"
    require(config.num_samples <= beam.beams, "num_samples", config.num_samples, why, "raise decoder.beams")
    for prompt in asked:
        for found in beam_search(gpt, tokenizer.encode(prompt), beam, limits)[: config.num_samples]:
            text = tokenizer.decode(found.ids)
            scored = {"logprob": found.logprob, "score": found.score}
            samples.append({"prompt": prompt, "text": text, "ids": found.ids, **scored})
            _show(console, prompt, text)
    return samples


def _show(console: Console, prompt: str, text: str) -> None:
    console.print(Text(prompt, style="bold") + Text(text, style="not bold"), soft_wrap=True)
    console.rule(style="dim")
