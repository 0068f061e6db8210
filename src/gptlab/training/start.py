"""What a run begins with: its text, the shape of its model, and the run that it goes on from or takes weights of."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.config import TrainConfig
from gptlab.config.record import record
from gptlab.data.progress import watching
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.errors import require
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers.saved import Saved
from gptlab.training.resume import checkpoint_of, require_same, unfinished

MOST_PADDING = 128  # a vocabulary rounded up to a multiple of 128 has fewer ids beyond the tokenizer's


@dataclass
class Start:
    """All that is known before anything is built."""

    config: TrainConfig  # as asked
    whole: TrainConfig  # with the model's vocabulary, as config.yaml keeps it
    corpus: Corpus
    loaded: GPT | None  # the model that `init_from` names
    before: RunDir | None  # the run that is resumed
    ckpt_path: Path | None = None
    resumed: int | None = None  # the step of that checkpoint

    @property
    def branches(self) -> bool:
        """Whether a new run takes it from the one before."""
        return self.before is not None and self.before.path.resolve() != Path(self.config.run_dir).resolve()

    def require_more_than(self, steps: int) -> None:
        """Refuse to resume a run that has all its steps, unless it was killed at the very end."""
        ((unit, amount),) = self.config.budget.fixed().items()
        why, todo = f"has its {steps:,} steps already", f"lengthen it, e.g. budget.{unit}={2 * amount:g}"
        ended = self.before is not None and self.before.status() == "finished"
        require(self.resumed is None or self.resumed < steps or not ended, "resume", self.config.resume, why, todo)


def begin(config: TrainConfig, console: Console) -> Start:
    """Find the run before, if any, and prepare the text; mistakes are met here."""
    auto = config.resume == "auto"
    before = RunDir.find(config.resume, without_checkpoint=True) if config.resume and not auto else None
    start_from = RunDir.find(config.init_from) if config.init_from and not before else None
    tokenizer = Saved(str(start_from.path / "tokenizer")) if start_from else config.tokenizer
    with watching(console) as watch:
        corpus = prepare(config.data, tokenizer, watch)
    loaded = start_from.load()[0].train() if start_from else None
    model_config = loaded.config if loaded else with_vocabulary(config, corpus.tokenizer.n_vocab)
    whole = dataclasses.replace(config, model=model_config, tokenizer=tokenizer)
    if auto and (before := unfinished(plain(record(whole)), Path(config.run_dir))):
        config, whole = (dataclasses.replace(c, run_dir=str(before.path)) for c in (config, whole))
    if before is None:
        return Start(config, whole, corpus, loaded, None)
    if config.budget.seconds_per_step is None:
        pace = before.config().get("budget", {}).get("seconds_per_step")
        budget = dataclasses.replace(config.budget, seconds_per_step=pace)
        config, whole = (dataclasses.replace(c, budget=budget) for c in (config, whole))
    ckpt_path, resumed, damaged = checkpoint_of(before)
    require_same(before.config(), plain(record(whole)))
    if damaged:
        console.print(f"{', '.join(damaged)}: damaged; {ckpt_path.name} is taken instead", highlight=False)
    return Start(config, whole, corpus, loaded, before, ckpt_path, resumed)


def with_vocabulary(config: TrainConfig, n_vocab: int) -> GPTConfig:
    """The model's config with as many tokens as the tokenizer has, or padded beyond to a rounder number."""
    asked = config.model.vocab_size or n_vocab
    why = f"but the tokenizer has {n_vocab} tokens"
    todo = f"leave it out, or pad: {-(-n_vocab // 64) * 64} is a multiple of 64"
    require(n_vocab <= asked < n_vocab + MOST_PADDING, "model.vocab_size", asked, why, todo)
    return dataclasses.replace(config.model, vocab_size=asked)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """As YAML has it."""
    import yaml

    read: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values))
    return read
