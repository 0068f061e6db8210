"""Define the config of a training run: the dataclasses of its parts, and the settings that belong to none of them."""

from dataclasses import dataclass, field
from pathlib import Path

from gptlab.batch_sizes import BatchSizes
from gptlab.data.config import BatchConfig
from gptlab.data.text.sources import Bundled
from gptlab.decoding.decoders import Decoder, TopK
from gptlab.errors import UserError, require, require_choice
from gptlab.model.adapters import Adapter
from gptlab.model.config import GPTConfig, ModelConfig, require_model_config
from gptlab.model.dial import Dial
from gptlab.optim.optimizers import AdamW, OptimizerConfig
from gptlab.optim.schedules import Cosine, Schedule, batch_sizes, steps_in_common
from gptlab.registry import name_of, option_of, options
from gptlab.tasks.base import Task, needs_reference
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tokenizers.base import TokenizerConfig
from gptlab.tokenizers.bpe import BPE
from gptlab.training.budget import Budget
from gptlab.training.loggers import Loggers, Monitor
from gptlab.training.trainer import TrainerConfig

ON_NAN = ("stop", "skip", "rewind")


@dataclass
class Checkpoint:
    """The checkpoints besides the one at the end: how often, and how many are kept; best.ckpt has its own rule."""

    every_n_steps: int | None = 200  # steps from one checkpoint to the next; null: none but by time
    every_n_minutes: float | None = None  # minutes from one checkpoint to the next, besides those by steps
    keep_last: int = 2  # checkpoints that are kept, besides best.ckpt
    # smaller budgets, in its unit: kept is also where they part
    horizons: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for key, try_ in {"every_n_steps": 200, "keep_last": 2}.items():
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be at least 1", f"try {try_}")
        minutes = self.every_n_minutes
        require(minutes is None or minutes > 0, "every_n_minutes", minutes, "is not above 0", "try 10")
        above = all(each > 0 for each in self.horizons)
        require(above, "horizons", self.horizons, "are not all above 0", "give amounts of budget's unit")


def nano() -> GPTConfig:
    """Return the shape of a model that trains in minutes on a laptop, with its tokenizer's number of tokens."""
    return GPTConfig(n_layer=4, n_head=4, n_embd=128, block_size=128, vocab_size=0)


BUNDLED_PROMPTS = ["The function returns", "A class is"]


@dataclass
class TrainConfig:
    """Train a model; everything about the run is written into one run directory."""

    model: ModelConfig = field(default_factory=nano)  # the network, or a preset of its sizes
    data: BatchConfig = field(default_factory=Bundled)  # what is trained on
    tokenizer: TokenizerConfig = field(default_factory=BPE)  # how text becomes tokens
    optimizer: OptimizerConfig = field(default_factory=AdamW)  # how a gradient changes the weights
    schedule: Schedule = field(default_factory=Cosine)  # how the learning rate rises and falls
    decoder: Decoder = field(default_factory=TopK)  # draws the samples in training
    task: Task = field(default_factory=CausalLM)  # what is learned
    trainer: TrainerConfig = field(default_factory=TrainerConfig)  # devices, precision, validation
    logger: Loggers = field(default_factory=Loggers)  # where metrics go
    callbacks: Monitor = field(default_factory=Monitor)  # further monitors
    adapter: Adapter | None = None  # what is trained of the model that init_from names; null: all of it
    budget: Budget = field(default_factory=Budget)  # how long to train; give one of its units
    checkpoint: Checkpoint = field(default_factory=Checkpoint)  # what is kept besides the end of the run
    sample_prompts: list[str] | None = None  # continued at every validation; null: beginnings of held-out documents
    name: str = "run"  # ends the name of the run directory, and is shown in reports
    preset: str | None = None  # the preset of the model, by which reports name it
    run_dir: str | None = None  # a new directory; null: outputs/DATE/TIME-NAME
    resume: str | None = None  # a run to continue in place, by its own config and these overrides; or auto
    resume_sweep: str | None = None  # the directory of a sweep, whose missing jobs are run
    branch: bool = False  # of a sweep: jobs that differ in the budget alone share steps, to the bit (schedule=wsd)
    confirm: int = 0  # of a sweep: seeds with which its best config is run again, in its folder confirm
    compile: bool = False  # torch.compile: slower to begin, faster after
    loss: str = "full"  # full | chunked: the logits of 1,024 positions at a time; less memory, more time
    ema: float | None = None  # decay of averaged weights, e.g. 0.999; the average is then validated and saved
    tail_average: float | None = None  # share of the steps, the last, whose mean weights are validated and saved
    on_nan: str = "stop"  # a gradient that is not finite: stop | skip the step | rewind to the last checkpoint
    # report steps whose loss is this many robust deviations up, if tokens are predicted; 0: off
    spike_sigmas: float = 8.0
    init_from: str | None = None  # a run, or a Hugging Face directory: its model, weights and tokenizer are used
    search_metric: str | None = None  # the metric that a search improves; null: the task's own
    seed: int = 1337  # of the first weights, the order of the data, dropout and samples
    json: bool = False  # print one JSON object, the summary of the run, and nothing else

    def __post_init__(self) -> None:
        if isinstance(self.model, Dial):
            self.preset = self.preset and f"{self.preset}-{self.model.depth}"
            self.model = self.model.shape()
        require_model_config(self.model)
        self.search_metric = self.search_metric or self.task.better
        self.budget = self.budget.given()
        known = f"choose one of {', '.join(self.task.metrics)}"
        known_metric = self.search_metric in self.task.metrics
        require(known_metric, "search_metric", self.search_metric, "no such metric of the task", known)
        self._require_data_of_task()
        require(0 <= self.seed < 2**32, "seed", self.seed, "is not in [0, 2^32)", "try 1337")
        require(self.confirm >= 0, "confirm", self.confirm, "is negative", "try 3, or leave it out")
        folders = self.name.split("/")
        proper = not {"", ".", ".."} & set(folders) and "\0" not in self.name
        require(proper, "name", self.name, "is no name of a folder, or of folders in each other", "try nano or a/b")
        require(self.run_dir != "", "run_dir", "", "is empty", "leave it out, or give a directory")
        empty = "" in (self.sample_prompts or [])
        require(not empty, "sample_prompts", self.sample_prompts, "has an empty one", "drop it")
        require_choice("on_nan", self.on_nan, ON_NAN)
        require_choice("loss", self.loss, ("full", "chunked"))
        require(self.spike_sigmas >= 0, "spike_sigmas", self.spike_sigmas, "is negative", "0 turns it off")
        require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "is not in (0, 1)", "0.999 is usual")
        tail = self.tail_average
        require(tail is None or 0 < tail < 1, "tail_average", tail, "is not in (0, 1)", "0.2 is usual")
        both = self.ema is not None and tail is not None
        require(not both, "tail_average", tail, "and ema are given", "leave one of them out")
        self._require_source()
        repeats = getattr(self.data, "repeat_steps", None)
        why = "repeats batches of one size, and schedule.batch changes it"
        require(not repeats or self.batch_sizes.constant, "data.repeat_steps", repeats, why, "leave one of them out")
        self._require_branches()
        if self.trainer.sharded:
            held = getattr(self.optimizer, "hyperball", False)
            require(not held, "optimizer.hyperball", "true", "needs whole matrices, fsdp shards them", "leave it out")
            for key in ("ema", "tail_average"):
                asked = getattr(self, key)
                require(asked is None, key, asked, "cannot average sharded weights", "leave it out")
            chunked = self.loss == "chunked"
            require(not chunked, "loss", "chunked", "needs the head whole, fsdp shards it", "leave it out")
            auto = self.data.micro_batch_size == "auto"
            require(not auto, "data.micro_batch_size", "auto", "cannot try out a sharded model", "give a number")

    def _require_source(self) -> None:
        """Refuse what needs a model to begin with where none is given."""
        if self.adapter is not None:
            name, todo = name_of(self.adapter), "give init_from=RUN"
            require(bool(self.init_from), "adapter", name, "trains a part of a model that there is already", todo)
        if needs_reference(self.task):
            why, todo = "compares with the model that a run begins with, and this one is new", "give init_from=RUN"
            require(bool(self.init_from or self.resume), "task", name_of(self.task), why, todo)

    def _require_branches(self) -> None:
        """Refuse budgets that cannot branch off a larger one, such as with rates of their own from the first steps."""
        if not (self.branch or self.checkpoint.horizons):
            return
        key, value = ("branch", "true") if self.branch else ("checkpoint.horizons", self.checkpoint.horizons)
        timed = "minutes" in self.budget.fixed()
        require(not timed, key, value, "needs a budget whose steps are known before", "give budget.steps")
        why = f"with schedule={name_of(self.schedule)} a smaller budget has other rates from the first steps on"
        require(
            steps_in_common(self.schedule, self.batch_sizes, 9000, 10_000) >= 900,
            key,
            value,
            why,
            "choose schedule=wsd",
        )

    def _require_data_of_task(self) -> None:
        """Refuse data of a kind that the task does not learn from."""
        gives, takes = getattr(self.data, "gives", ""), self.task.learns_from
        if not gives or gives in takes:
            return
        name = (option_of(self.task) or ("", type(self.task).__name__))[1]
        fitting = [each for each, part in options("data").items() if getattr(part, "gives", "") in takes]
        why = f"gives {gives}, and task={name} learns from {' or '.join(takes)}"
        todo = (
            f"choose one of {', '.join(fitting)}" if fitting else "enable the plugin that has such data: plugins=[NAME]"
        )
        raise UserError("data", name_of(self.data), why, todo)

    @property
    def batch_sizes(self) -> BatchSizes:
        """The number of sequences of each step."""
        return batch_sizes(self.data.batch_size, self.schedule)

    @property
    def path(self) -> Path:
        """The run's directory, once it has one."""
        assert self.run_dir is not None
        return Path(self.run_dir)
