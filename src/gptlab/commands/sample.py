"""The verb `sample`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gptlab.decoding.decoders import Beam, Decoder, TopK, TopP
from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.decoding.overflow import OVERFLOWS, require_sinks
from gptlab.errors import UserError, require, require_choice
from gptlab.evaluation.precision import PRECISIONS
from gptlab.files import strict_json, write_atomically
from gptlab.registry import command, name_of

if TYPE_CHECKING:
    from rich.console import Console

    from gptlab.decoding.context import Limits
    from gptlab.decoding.texts import Codec, Continuation
    from gptlab.runs.run_dir import RunDir
    from gptlab.tokenizers.base import Tokenizer

OF_LABELS = ("run", "prompt", "prompts", "json")  # the fields that mean something to a classifier


@dataclass
class SampleConfig:
    """Continue a prompt with the model of a run."""

    decoder: Decoder | Beam = field(default_factory=TopK)  # how the next token is chosen
    run: str = "latest"  # a run directory, one of its checkpoints, a Hugging Face directory, or latest
    prompt: str | None = None  # null: the run's first sample prompt; with start=eot none
    prompts: list[str] = field(default_factory=list)  # several, in one batch
    start: str | None = None  # eot: the prompt comes after the token that begins a document
    chat: bool = False  # answer the prompt, in the chat template of the run
    system: str | None = None  # what the system says first; with chat=true
    max_new_tokens: int = 100  # the most tokens of a text
    num_samples: int = 1  # texts for each prompt
    stop: list[str] = field(default_factory=list)  # a text ends before the first of these
    overflow: str = "crop"  # beyond the context: crop (its end is read again) | ring (a token is read once) | refuse
    sinks: int = 0  # with overflow=ring: first tokens that stay in view; 4 for a model that was trained long
    logits_processors: LogitsProcessors = field(default_factory=LogitsProcessors)  # penalties and bans
    precision: str = "32-true"  # 32-true | bf16-true | int8 (weights of 8 bits, on a CPU): of the computation
    explain: bool = False  # print and write RUN/explain.html: the alternatives to each token
    seed: int = 1337  # of the draws
    json: bool = False  # print one JSON object and nothing else

    def __post_init__(self) -> None:
        todo = 'give some text, e.g. prompt="Once upon"'
        require(self.start in (None, "eot"), "start", self.start, "no such option", "leave it out, or give eot")
        some = self.start is not None or (self.prompt != "" and "" not in self.prompts)
        require(some, "prompt", "", "is empty", f"{todo}, or start=eot")
        require(not (self.chat and self.start), "start", self.start, "and chat are given", "give one of them")
        alone = self.system is not None and not self.chat
        require(not alone, "system", self.system, "goes with chat=true", "give both, or leave it out")
        both = self.prompt is not None and bool(self.prompts)
        require(not both, "prompts", self.prompts, "and prompt are given", "give one of them")
        require("" not in self.stop, "stop", self.stop, "has an empty string, which is everywhere", "drop it")
        require_choice("overflow", self.overflow, OVERFLOWS)
        require_sinks(self.sinks, self.overflow)
        require_choice("precision", self.precision, PRECISIONS)
        require(self.seed >= 0, "seed", self.seed, "is negative", "try 1337")
        for key in ("max_new_tokens", "num_samples"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1", "try 1 or more")


def frontier(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Print quality against diversity for a sweep of `sample` over one run, and write it as frontier.html and .json."""
    from rich.console import Console

    from gptlab.evaluation.frontier import frontier_rows
    from gptlab.reporting.frontier import frontier_table, write_frontier_page
    from gptlab.runs.run_dir import RunDir

    run, console = RunDir.find(results[0]["run"]), Console()
    rows, page = frontier_rows(run, results), run.path / "frontier.html"
    console.print(frontier_table(rows))
    write_frontier_page(page, rows, results)
    write_atomically(run.path / "frontier.json", (strict_json(rows, indent=2) + "\n").encode())
    console.print(f"the page is {page}", markup=False, soft_wrap=True)
    return {"frontier": rows, "page": str(page)}


@command(after_sweep=frontier)
def sample(config: SampleConfig) -> dict[str, Any]:
    """Continue a prompt with the model of a run.

    Prints the texts and returns {"samples": [{"prompt", "text", "ids", "logprob", "logprobs"}]}: each new text, its
    ids, and the log-probability in nats, under the model, of the whole text and of each id. A classifier gives the
    prompts labels instead: [{"prompt", "label", "probabilities"}].
    """
    from gptlab.interop.hub_directory import run_of

    run = run_of("run", config.run)  # before torch is imported

    from gptlab.decoding.context import Limits, require_ring
    from gptlab.decoding.inspect import inspect
    from gptlab.decoding.texts import with_ids
    from gptlab.evaluation.chat import first_messages, template_of
    from gptlab.evaluation.model import load_for_decoding
    from gptlab.evaluation.predictions import gives_labels
    from gptlab.tokenizers.chat_templates import ChatCodec
    from gptlab.tokenizers.unspelled import Unspelled

    usual = "" if config.start else next(iter(run.sample_prompts()), "")
    prompts = config.prompts or [config.prompt or usual]
    if gives_labels(run):
        return _predict(config, run, prompts)
    todo = 'give one, e.g. prompt="Once upon", or start=eot'
    require(bool(config.start) or "" not in prompts, "prompt", "null", "the run has no sample prompt", todo)
    gpt, tokenizer = load_for_decoding(run, config.precision)
    codec: Codec = tokenizer
    ends, before = tokenizer.ends, [tokenizer.eot] if config.start == "eot" else tokenizer.start
    if config.chat:
        template = template_of(run, tokenizer)
        codec, ends, before = ChatCodec(template, first_messages(config.system)), template.ends, []
    overflow = config.overflow, config.sinks
    limits = Limits(config.max_new_tokens, gpt.config.block_size, ends, tokenizer.n_vocab, *overflow)
    require_ring(gpt, limits.ring)  # before anything is printed
    processors = with_ids(config.logits_processors, tokenizer)
    unknown = sum(tokenizer.unspelled(prompt, tokenizer.encode_array(prompt)) for prompt in prompts)
    lost = Unspelled(unknown, sum(map(len, prompts)))
    if lost:
        print(f"{lost} of the prompt are not in the tokenizer's vocabulary", file=sys.stderr)
    if isinstance(config.decoder, TopP) and config.decoder.p < 1 and config.decoder.temperature not in (0, 1):
        print("hint: temperature and top-p both shape the distribution; change one at a time", file=sys.stderr)
    if isinstance(config.decoder, Beam):
        samples = [
            found.record() for found in _search(config, config.decoder, gpt, codec, prompts, limits, processors, before)
        ]
    else:
        drawn = _draw(config, config.decoder, gpt, codec, prompts, limits, processors, before)
        samples = [found.record() for found in drawn]
        if config.explain:
            for record, found in zip(samples, drawn, strict=True):
                record["steps"] = [inspect(step, config.decoder) for step in found.steps]
            _explain(run, tokenizer, repr(config.decoder), samples)
    told = {"run": str(run.path), "decoder": repr(config.decoder), "logits_processors": processors.active}
    return {**told, **(lost.record() if lost else {}), "samples": samples}


def _predict(config: SampleConfig, run: RunDir, prompts: Sequence[str]) -> dict[str, Any]:
    """Print and return the probability of each label for each prompt."""
    from gptlab.evaluation.predictions import predictions
    from gptlab.reporting.scores import prediction_lines

    usual = SampleConfig()
    for key, given in vars(config).items():
        why, shown = "does not apply to a run that gives texts labels", name_of(given) if key == "decoder" else given
        require(key in OF_LABELS or given == getattr(usual, key), key, shown, why, "leave it out")
    require("" not in prompts, "prompt", "null", "the run has no sample prompt", 'give one, e.g. prompt="Call me"')
    found = predictions(run, prompts)
    for each in found:
        print(*prediction_lines(each), sep="\n")
    return {"run": str(run.path), "samples": found}


def _explain(run: RunDir, tokenizer: Tokenizer, decoder: str, samples: Sequence[dict[str, Any]]) -> None:
    """Print the alternatives that each token was chosen from, and write them into RUN/explain.html."""
    from rich.console import Console

    from gptlab.reporting.inspection import inspection_table, write_inspection_page

    console, page = Console(), run.path / "explain.html"
    for found in samples:
        console.print(inspection_table(found, tokenizer.spell))
    write_inspection_page(page, decoder, samples, tokenizer.spell)
    console.print(f"the page is {page}", markup=False, soft_wrap=True)


def _draw(
    config: SampleConfig,
    decoder: Decoder,
    gpt: Any,
    codec: Codec,
    prompts: Sequence[str],
    limits: Limits,
    processors: LogitsProcessors,
    before: Sequence[int],
) -> list[Continuation]:
    """Print `num_samples` texts of each prompt; a single one is printed as it is generated."""
    from rich.console import Console
    from rich.text import Text

    from gptlab.decoding.generate import draw_key
    from gptlab.decoding.texts import continue_prompts
    from gptlab.runs.samples import visible

    console = Console()
    asked = [(prompt, sample) for prompt in prompts for sample in range(config.num_samples)]
    alone = len(asked) == 1

    def said(row: int, text: str) -> None:
        if alone:
            console.print(Text(visible(text)), end="", soft_wrap=True)

    if alone:
        console.print(Text(prompts[0], style="bold"), end="\n" if config.chat else "", soft_wrap=True)
    keys = [draw_key(config.seed, prompt, sample) for prompt, sample in asked]
    rows = [prompt for prompt, _ in asked]
    found = continue_prompts(gpt, codec, rows, keys, decoder, limits, processors, config.stop, said, before)
    if alone:
        console.print()
    else:
        _show(console, found)
    return found


def _search(
    config: SampleConfig,
    beam: Beam,
    gpt: Any,
    codec: Codec,
    prompts: Sequence[str],
    limits: Limits,
    processors: LogitsProcessors,
    before: Sequence[int],
) -> list[Continuation]:
    """Print the `num_samples` best texts that beam search finds for each prompt."""
    from rich.console import Console

    from gptlab.decoding.texts import best_continuations

    if processors.active or config.stop:
        key = f"logits_processors.{processors.active[0]}" if processors.active else "stop"
        raise UserError(key, "given", "beam search searches the model's own distribution", "leave it out")
    samples = []
    for prompt in prompts:
        found = best_continuations(gpt, codec, prompt, beam, limits, config.num_samples, before)
        _show(Console(), found)
        samples += found
    return samples


def _show(console: Console, samples: Sequence[Continuation]) -> None:
    from rich.text import Text

    from gptlab.runs.samples import visible

    for found in samples:
        console.print(Text(found.prompt, style="bold") + Text(visible(found.text), style="not bold"), soft_wrap=True)
        console.rule(style="dim")
