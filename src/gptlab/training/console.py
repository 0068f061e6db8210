"""Show a summary of a run on the console before and after training."""

import math
import os
import shlex
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from gptlab.data.batches.build import Data
from gptlab.metrics import metrics
from gptlab.model.config import GPTConfig
from gptlab.registry import name_of
from gptlab.runs.bands import sentence
from gptlab.runs.samples import visible
from gptlab.training.build import Parts
from gptlab.training.lightning_internals import device_of
from gptlab.training.peak_flops import PeakFlops
from gptlab.training.precision import slow_precision
from gptlab.training.start import Start


def header(console: Console, begun: Start, parts: Parts, peak: PeakFlops) -> None:
    """Show the model, the data and the devices of a run that is about to be trained, and its directory."""
    config, data, trainer, plan, model = begun.config, begun.data, parts.trainer, parts.plan, begun.config.model
    rows = {
        "model": f"{parts.parameters:,} parameters: {_shape(model)}, context {model.block_size}"
        + _trained(begun, parts),
        "data": "\n".join([_sizes(data), *(data.corpus.notes if data.corpus else [])]),
        "windows": data.module.describe(),
        "tokenizer": f"{_tokenizer_name(config.tokenizer)}, {data.tokenizer.n_vocab:,} tokens{_unspelled(data)}",
        "budget": str(plan) if plan else f"minutes={config.budget.minutes:g}, in steps when some have been timed",
        "batch": f"{config.batch_sizes} x {model.block_size} tokens a step on "
        f"{trainer.world_size} x {device_of(trainer).type}, {config.trainer.precision}",
        "peak": f"{peak.flops / 1e12:.3g} TFLOP/s a device ({peak.source}), for train/mfu",
        "run": _near(str(begun.run_dir)),
    }
    grid = Table.grid(padding=(0, 2))
    for key, value in rows.items():
        grid.add_row(Text(key, style="bold"), Text(value))
    console.print(grid)
    if advice := slow_precision(config.trainer.precision, device_of(trainer)):
        console.print(Text(advice, style="yellow"), soft_wrap=True)


def ending(console: Console, summary: dict[str, Any], texts: Sequence[tuple[str, str, str]]) -> None:
    """Show the run in one table, `texts` (decoder, prompt, continuation), and commands to try next."""
    scores = [row for row in metrics() if "panel" in row.shown and row.key in summary]
    names = ("parameters", "tokens seen", *(row.head for row in scores), "tokens/s", "time")
    table = Table(*(Column(name, justify="right", no_wrap=True) for name in names), box=box.SIMPLE_HEAD, pad_edge=False)
    minutes, seconds = divmod(round(summary["seconds"]), 60)
    table.add_row(
        f"{summary['parameters']:,}",
        f"{summary['tokens']:,}",
        *(row.text(math.nan if summary[row.key] is None else summary[row.key]) for row in scores),
        f"{summary['tokens_per_second']:,.0f}",
        f"{minutes}:{seconds:02d}",
    )
    console.print(table)
    if "replication" in summary:
        console.print(Text(sentence(summary["replication"])), soft_wrap=True)
        console.print()
    texts = [(how, _shown(prompt), _shown(text)) for how, prompt, text in texts]
    for how, prompt, text in texts:
        console.print(
            Text(f"{how}: ", style="dim") + Text(prompt, style="bold") + Text(visible(text.rstrip()), style="not bold")
        )
        console.print()
    run = _near(summary["run_dir"])
    prompt = shlex.quote(f"prompt={texts[0][1]}") if texts else 'prompt="..."'
    commands = (
        f"gptlab sample {shlex.quote(f'run={run}')} {prompt}",
        f"gptlab evaluate {shlex.quote(f'run={run}')}",
        "tensorboard --logdir outputs",
    )
    lines = [f"The run is in {run}. Next:", *(f"  {command}" for command in commands)]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def _trained(begun: Start, parts: Parts) -> str:
    """Tell how many parameters an adapter trains, and on which model."""
    if parts.trained is None:
        return ""
    name, rate = name_of(begun.config.adapter), parts.module.optimizer.lr
    return f"\n{name} trains {parts.trained:,}, at a rate of up to {rate:.3g}, on {begun.config.init_from}"


def _shape(model: Any) -> str:
    """Tell the sizes of a GPT, or the name of another model and its settings."""
    if isinstance(model, GPTConfig):
        return f"{model.n_layer} layers, {model.n_head} heads, width {model.n_embd}"
    settings = {key: value for key, value in vars(model).items() if key not in ("block_size", "vocab_size")}
    return ", ".join([name_of(model), *(f"{key} {value}" for key, value in settings.items())])


def _sizes(data: Data) -> str:
    """Return the amount of text to train on and of held-out text, in words."""
    told = f"sha256 {data.module.data_hash[:12]}"
    if data.source is None:
        return told
    train, val = data.source.manifest["train"], data.source.manifest["val"]
    if data.corpus is None:
        return f"{train['examples']:,} examples to train on; {val['examples']:,} held out; {told}"
    return (
        f"{train['documents']:,} documents, {_bytes(train)}{train['tokens']:,} tokens to train on; "
        f"{_bytes(val)}{val['tokens']:,} tokens held out; {told}"
    )


def _unspelled(data: Data) -> str:
    """Tell how much of the text is not in the vocabulary: bits per byte of that part is then not defined."""
    found = data.corpus.unspelled if data.corpus else {}
    names = {"train": "training", "val": "held-out"}
    said = [f"{lost} of the {names[part]} text are unknown" for part, lost in found.items() if lost]
    return "".join(f"; {each}, so its bits per byte is not defined" for each in said)


def _bytes(part: dict[str, Any]) -> str:
    return "" if part["bytes"] is None else f"{part['bytes']:,} bytes, "


def _tokenizer_name(tokenizer: Any) -> str:
    return getattr(tokenizer, "name", type(tokenizer).__name__.lower())


def _shown(text: str) -> str:
    """Return a text that can be printed: half a surrogate pair, from an argument that is not UTF-8, becomes `?`."""
    return text.encode("utf-8", "replace").decode()


def _near(path: str) -> str:
    """Return a path as one would type it from the current folder."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
