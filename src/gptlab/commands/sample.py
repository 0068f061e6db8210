"""The verb `sample`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptlab.decoding.decoders import Beam, Decoder, TopK, TopP
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import UserError, require
from gptlab.registry import command

if TYPE_CHECKING:
    from rich.console import Console

    from gptlab.decoding.generate import Limits
    from gptlab.decoding.texts import Continuation
    from gptlab.model.gpt import GPT
    from gptlab.tokenizers import Tokenizer


@dataclass
class SampleConfig:
    """Continue a prompt with the model of a run."""

    decoder: Decoder | Beam = field(default_factory=TopK)
    run: str = "latest"
    prompt: str | None = None  # null: the run's first sample prompt
    prompts: list[str] = field(default_factory=list)  # or several, in one batch
    max_new_tokens: int = 100
    num_samples: int = 1  # of each prompt
    stop: list[str] = field(default_factory=list)  # a text ends before the first of these
    overflow: str = "crop"  # of the context: crop (forget the oldest tokens) | refuse
    controls: LogitsProcessors = field(default_factory=LogitsProcessors)  # penalties and bans, before the decoder
    precision: str = "32-true"  # 32-true | bf16-true
    explain: bool = False  # a table and RUN/explain.html: what each token was chosen from
    seed: int = 1337
    json: bool = False

    def __post_init__(self) -> None:
        todo = 'give some text, e.g. prompt="Once upon"'
        require(self.prompt != "" and "" not in self.prompts, "prompt", "", "is empty", todo)
        both = self.prompt is not None and bool(self.prompts)
        require(not both, "prompts", self.prompts, "and prompt are given", "give one of them")
        require("" not in self.stop, "stop", self.stop, "has an empty string, which is everywhere", "drop it")
        for key, choices in {"overflow": ("crop", "refuse"), "precision": ("32-true", "bf16-true")}.items():
            value = getattr(self, key)
            require(value in choices, key, value, "no such option", f"choose one of {', '.join(choices)}")
        for key in ("max_new_tokens", "num_samples"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1", "try 1 or more")


def frontier(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Set quality against diversity over the decoders of a sweep."""
    from gptlab.evaluation.frontier import summarise

    return summarise(results)


@command(after_sweep=frontier)
def sample(config: SampleConfig) -> dict[str, Any]:
    """Continue a prompt with the model of a run.

    Prints the texts; returns {"samples": [{"prompt", "text", "ids", "logprob", "logprobs"}]}: each new text, its ids,
    and the log-probability under the model of all and of each of them.
    """
    import torch

    from gptlab.decoding.generate import Limits
    from gptlab.decoding.inspect import inspect
    from gptlab.decoding.onednn import pack
    from gptlab.reporting.inspection import explain
    from gptlab.runs.run_dir import RunDir

    run = RunDir.find(config.run)
    asked = config.prompts or [config.prompt or next(iter(run.sample_prompts()), "")]
    require("" not in asked, "prompt", "null", "the run has no sample prompt", 'give one, e.g. prompt="Once upon"')
    gpt, tokenizer = run.load()
    dtype = torch.bfloat16 if config.precision == "bf16-true" else torch.float32
    gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu", dtype)
    pack(gpt)
    limits = Limits(config.max_new_tokens, gpt.config.block_size, tokenizer.eot, tokenizer.n_vocab, config.overflow)
    controls = with_ids(config.controls, tokenizer)
    if isinstance(config.decoder, TopP) and config.decoder.p < 1 and config.decoder.temperature not in (0, 1):
        print("hint: temperature and top-p both shape the distribution; change one at a time", file=sys.stderr)
    if isinstance(config.decoder, Beam):
        samples = _search(config, config.decoder, gpt, tokenizer, asked, limits, controls)
    else:
        samples, found = _draw(config, config.decoder, gpt, tokenizer, asked, limits, controls)
        if config.explain:
            for shown, each in zip(samples, found, strict=True):
                shown["steps"] = [inspect(step, config.decoder) for step in each.steps]
            explain(run, tokenizer, config.decoder, samples)
    return {"run": str(run.path), "decoder": repr(config.decoder), "controls": controls.active, "samples": samples}


def with_ids(controls: LogitsProcessors, tokenizer: Tokenizer) -> LogitsProcessors:
    """Replace banned texts by their token ids."""
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
    decoder: Decoder,
    gpt: GPT,
    tokenizer: Tokenizer,
    asked: Sequence[str],
    limits: Limits,
    controls: LogitsProcessors,
) -> tuple[list[dict[str, Any]], list[Continuation]]:
    """Draw `num_samples` texts of each prompt; a single one is shown as it comes."""
    from rich.console import Console
    from rich.text import Text

    from gptlab.decoding.texts import continue_prompts

    console = Console()
    keys = [(config.seed, p, s) for p in range(len(asked)) for s in range(config.num_samples)]
    prompts = [asked[p] for _, p, _ in keys]
    alone = len(keys) == 1

    def said(row: int, text: str) -> None:
        if alone:
            console.print(Text(text), end="", soft_wrap=True)

    if alone:
        console.print(Text(prompts[0], style="bold"), end="", soft_wrap=True)
    found = continue_prompts(gpt, tokenizer, prompts, keys, decoder, limits, controls, config.stop, said)
    if alone:
        console.print()
    samples = []
    for prompt, each in zip(prompts, found, strict=True):
        scored = {"logprob": each.logprob, "logprobs": [step.logprob for step in each.steps]}
        samples.append({"prompt": prompt, "text": each.text, "ids": each.ids, **scored})
        if not alone:
            _show(console, prompt, each.text)
    return samples, found


def _search(
    config: SampleConfig,
    beam: Beam,
    gpt: GPT,
    tokenizer: Tokenizer,
    asked: Sequence[str],
    limits: Limits,
    controls: LogitsProcessors,
) -> list[dict[str, Any]]:
    """Search the `num_samples` best texts that beam search finds for each prompt."""
    from rich.console import Console

    from gptlab.decoding.texts import best_continuations

    console, samples = Console(), []
    if controls.active or config.stop:
        key = f"controls.{controls.active[0]}" if controls.active else "stop"
        raise UserError(key, "given", "beam search searches the model's own distribution", "leave it out")
    why = f"beam search with {beam.beams} beams finds no more"
    require(config.num_samples <= beam.beams, "num_samples", config.num_samples, why, "raise decoder.beams")
    for prompt in asked:
        for each in best_continuations(gpt, tokenizer, prompt, beam, limits, config.num_samples):
            scored = {"logprob": each.logprob, "score": each.score}
            samples.append({"prompt": prompt, "text": each.text, "ids": each.ids, **scored})
            _show(console, prompt, each.text)
    return samples


def _show(console: Console, prompt: str, text: str) -> None:
    from rich.text import Text

    console.print(Text(prompt, style="bold") + Text(text, style="not bold"), soft_wrap=True)
    console.rule(style="dim")
