"""Collect everything that a run starts from, before anything is built or written; most mistakes are reported here."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock
from rich.console import Console

from gptlab.data.batches.answers import Answers
from gptlab.data.batches.build import Data, build_data
from gptlab.data.batches.examples import ExampleSet
from gptlab.data.config import ExampleData
from gptlab.data.text.sources import Bundled, DataConfig
from gptlab.data.tokens.openings import openings
from gptlab.data.tokens.progress import watching
from gptlab.errors import require
from gptlab.interop.hub_directory import run_of
from gptlab.model.config import ModelConfig
from gptlab.registry import name_of
from gptlab.runs.config_file import LAYOUT, record, with_defaults
from gptlab.runs.run_dir import RunDir, default_run_dir, located
from gptlab.tasks.base import Reading, needs_reference
from gptlab.tasks.divergence import Divergence
from gptlab.tasks.inputs import Part
from gptlab.tokenizers.base import TokenizerConfig
from gptlab.tokenizers.saved import Saved
from gptlab.training.budget import Plan
from gptlab.training.config import BUNDLED_PROMPTS, TrainConfig
from gptlab.training.init_from import Initial, initial
from gptlab.training.lightning_internals import early_rank
from gptlab.training.old import score_old
from gptlab.training.precision import chosen_precision
from gptlab.training.replay import with_replay
from gptlab.training.resume import changes, checkpoint_of, require_same, require_same_place, unfinished
from gptlab.training.waiting import waiting

Model = TypeVar("Model", bound=ModelConfig)
PROMPTS = 3  # of held-out examples, where these are what a task is shown with
MOST_PADDING = 128  # a vocabulary rounded up to a multiple of 128 has fewer ids beyond the tokenizer's


@dataclass
class Start:
    """A run before it is built: its resolved config, its data, and the checkpoint that it continues from."""

    config: TrainConfig  # resolved, as in config.yaml
    data: Data
    initial: Initial | None  # the model that `init_from` names, for a run that has no checkpoint or an adapter
    resumed_from: RunDir | None
    checkpoint: Path | None = None  # of that run; None if it was killed before its first one and begins again
    step: int = 0  # of that checkpoint
    changed: list[str] = field(default_factory=list)  # settings of that run, as `key: old -> new`
    lock: BaseFileLock | None = None  # on the resumed run; on rank 0 only

    @property
    def run_dir(self) -> Path:
        return self.config.path

    @property
    def in_place(self) -> bool:
        """True if a run continues in its own directory; a branch begins a new run from a checkpoint of another."""
        return self.resumed_from is not None and self.resumed_from.path.resolve() == self.run_dir.resolve()

    def require_steps_left(self, plan: Plan) -> None:
        """Refuse to resume a run with all its steps done, unless it was killed at the very end, or with more."""
        if self.resumed_from is None:
            return
        ((unit, amount),) = self.config.budget.fixed().items()
        why = f"is {plan.steps:,} steps, and the run that is resumed is at step {self.step:,}"
        todo = "give more, or take an earlier checkpoint"
        require(self.step <= plan.steps, f"budget.{unit}", f"{amount:g}", why, todo)
        ended = self.resumed_from.status() == "finished"
        why, todo = f"has its {plan.steps:,} steps already", f"lengthen it, e.g. budget.{unit}={2 * amount:g}"
        require(self.step < plan.steps or not ended, "resume", self.config.resume, why, todo)

    def release(self) -> None:
        """Unlock the run, so that others can resume it."""
        if self.lock is not None:
            self.lock.release()


def start(config: TrainConfig, console: Console) -> Start:
    """Find the run that is resumed, if any, and prepare the data. On rank 0 the resumed run is locked first."""
    if config.run_dir is None:
        config = dataclasses.replace(config, run_dir=str(default_run_dir(config.name)))
    config = with_precision(config)
    config.callbacks.require_classes()
    config.logger.require_usable()
    auto = config.resume == "auto"
    before = RunDir.find_as("resume", config.resume, without_checkpoint=True) if config.resume and not auto else None
    needed = config.adapter is not None or not (before and before.has_checkpoint())  # a checkpoint has the whole model
    read_again = config.adapter is not None or needs_reference(config.task)  # by other commands, too
    if needed and read_again and config.init_from:
        config = dataclasses.replace(config, init_from=located(run_of("init_from", config.init_from)))
    if isinstance(config.data, ExampleData) and config.data.old_loss:
        require(bool(config.init_from), "data.old_loss", "true", "has no run whose text is old", "give init_from")
    if isinstance(config.data, DataConfig) and config.data.replay:
        require(
            bool(config.init_from), "data.replay", config.data.replay, "has no run to take text of", "give init_from"
        )
        config = dataclasses.replace(config, data=with_replay(config.data, run_of("init_from", str(config.init_from))))
    first, tokenizer = begun_from(config, console) if needed else (None, config.tokenizer)
    if first and needs_reference(config.task):
        name, todo = name_of(first.task), "begin with a language model"
        why = f"its task, {name}, does not predict the next token"
        require(first.task.predicts_tokens, "init_from", config.init_from, why, todo)
    block_size = (first.config if first else config.model).block_size
    with watching(console) as watch:
        data = build_data(config.data, tokenizer, block_size, config.seed, config.task, watch)
    data.module.batch_sizes = config.batch_sizes
    if needs_reference(config.task):
        data.module.val_parts["reference"] = Part(Answers(), Divergence(), Reading(), None)  # type: ignore[attr-defined]
    if isinstance(config.data, ExampleData) and config.data.old_loss:
        score_old(data, run_of("init_from", str(config.init_from)), block_size, console)
    model = first.config if first else with_vocabulary(config.model, data.tokenizer.n_vocab)
    preset = first.preset if first else config.preset
    prompts = sample_prompts(config, data)
    config = dataclasses.replace(
        config, model=model, preset=preset, tokenizer=tokenizer, task=data.task, sample_prompts=prompts
    )
    if auto and (before := unfinished(plain(record(config)), config.path)):
        config = dataclasses.replace(config, run_dir=str(before.path))
    if before and not before.is_begun() and before.path.resolve() == config.path.resolve():
        before = None  # killed before its first files were written
    if before is None:
        if early_rank() == 0:
            RunDir(config.path).require_new()
        return Start(config, data, first, None)
    return resumed(config, data, first, before, console)


def with_precision(config: TrainConfig) -> TrainConfig:
    """Return the config with the precision that `auto` stands for here, which a run then keeps."""
    trainer = config.trainer
    precision = chosen_precision(trainer.precision, trainer.accelerator)
    return dataclasses.replace(config, trainer=dataclasses.replace(trainer, precision=precision))


def sample_prompts(config: TrainConfig, data: Data) -> list[str]:
    """Return the prompts of a run's samples: those that are given, or else some that suit its text or examples."""
    if config.sample_prompts is not None:
        return config.sample_prompts
    if isinstance(data.source, ExampleSet) and not config.task.predicts_tokens:
        return [record["text"] for record in data.source.val[:PROMPTS] if isinstance(record.get("text"), str)]
    if data.corpus is None or isinstance(config.data, Bundled):
        return BUNDLED_PROMPTS
    return openings(data.corpus.val, data.corpus.tokenizer, is_cut=data.corpus.val_is_cut)


def begun_from(config: TrainConfig, console: Console) -> tuple[Initial | None, TokenizerConfig]:
    """Return the model and the tokenizer that a run begins with, and say what is read where it may take long."""
    if not config.init_from:
        return initial_model(config)
    with waiting(console, f"reading the model of {config.init_from}"):
        return initial_model(config)


def initial_model(config: TrainConfig) -> tuple[Initial | None, TokenizerConfig]:
    """Return the model and the tokenizer that `init_from` names; without it None, and the config's own tokenizer."""
    if not config.init_from:
        return None, config.tokenizer
    source = run_of("init_from", config.init_from)
    return initial(source), Saved(str(source.path / "tokenizer"))


def resumed(config: TrainConfig, data: Data, first: Initial | None, before: RunDir, console: Console) -> Start:
    """Lock the run that goes on, find its checkpoint, and refuse what would make its continuation a lie.

    A run that was killed before its first checkpoint begins again in its directory.
    """
    if config.budget.seconds_per_step is None:
        seconds = before.config().get("budget", {}).get("seconds_per_step")
        config = dataclasses.replace(config, budget=dataclasses.replace(config.budget, seconds_per_step=seconds))
    begun = Start(config, data, first, before)
    if early_rank() == 0:
        before.require_own_files()
        if begun.in_place:
            begun.lock = before.hold()
        else:
            RunDir(begun.run_dir).require_new()
    try:
        earlier, now = with_defaults(before.config()), plain(record(config))
        require_same(earlier, now)
        if before.layout == LAYOUT:
            begun.changed = changes(earlier, now)
        if begun.in_place and not before.has_checkpoint() and before.status() != "finished":
            return begun
        begun.checkpoint, begun.step, notes = checkpoint_of(before)
        require_same_place(earlier, config.batch_sizes, begun.step)
        for note in notes:
            console.print(note, markup=False, highlight=False, soft_wrap=True)
        noise = "the noise of dropout goes on as this version draws it, not as the run's own did"
        if before.layout < 2 and getattr(config.model, "dropout", None):
            console.print(f"{before.path}: was made by an older gptlab; {noise}", highlight=False, soft_wrap=True)
    except BaseException:
        begun.release()
        raise
    return begun


def with_vocabulary(model: Model, n_vocab: int) -> Model:
    """Return the model's config with as many tokens as the tokenizer has, or padded beyond to a rounder number."""
    asked = model.vocab_size or n_vocab
    why = f"but the tokenizer has {n_vocab} tokens"
    todo = f"leave it out, or pad: {-(-n_vocab // 64) * 64} is a multiple of 64"
    require(n_vocab <= asked < n_vocab + MOST_PADDING, "model.vocab_size", asked, why, todo)
    return dataclasses.replace(model, vocab_size=asked)


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config as plain values, as in YAML."""
    import yaml

    read: dict[str, Any] = yaml.safe_load(yaml.safe_dump(values))
    return read
