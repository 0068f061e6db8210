"""What each verb is asked: one dataclass a verb, composed from the components' own. Hydra ends here."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from gptlab.data.sources import Bundled, Download, Files, Hub, Mixture, TokenFiles
from gptlab.decoding.controls import Controls
from gptlab.decoding.decoders import Beam, Greedy, MinP, Sample, TopK, TopP, Typical
from gptlab.errors import UserError, require
from gptlab.model.config import GPTConfig
from gptlab.optim.optimizers import SGD, Adafactor, Adam, AdamW, Lion, Muon
from gptlab.optim.schedules import WSD, Constant, Cosine, InverseSqrt, Linear
from gptlab.tokenizer_options import BPE, Byte, Char, JSONFile, OpenAI, Saved
from gptlab.training.budget import Budget
from gptlab.training.loggers import Loggers, Monitor
from gptlab.training.trainer import TrainerConfig

# the options of a group may be of several classes; the annotation of such a field is Any
COMPONENTS = [
    *(GPTConfig, Bundled, Files, Download, Hub, Mixture, TokenFiles),
    *(BPE, OpenAI, Char, Byte, JSONFile, Saved),
    *(AdamW, Adam, SGD, Lion, Adafactor, Muon, Constant, Cosine, Linear, WSD, InverseSqrt),
    *(Greedy, Sample, TopK, TopP, MinP, Typical, Beam, TrainerConfig, Loggers, Monitor),
]

SCORES = ("train/loss", "val/loss", "val/perplexity", "val/bits_per_byte")  # at the end of a run
ON_NAN = ("stop", "skip", "rewind")


@dataclass
class Checkpoint:
    """When a checkpoint is written, besides the end, and how many are kept; best.ckpt follows the validations."""

    every_n_steps: int | None = 200
    every_n_minutes: float | None = None
    keep_last: int = 2

    def __post_init__(self) -> None:
        for key, try_ in {"every_n_steps": 200, "keep_last": 2}.items():
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be at least 1", f"try {try_}")
        minutes = self.every_n_minutes
        require(minutes is None or minutes > 0, "every_n_minutes", minutes, "is not above 0", "try 10")


@dataclass
class TrainConfig:
    """Everything about a training run."""

    model: GPTConfig = MISSING
    data: Any = MISSING
    tokenizer: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    decoder: Any = MISSING  # draws the samples in training
    trainer: TrainerConfig = MISSING
    logger: Loggers = MISSING
    callbacks: Monitor = field(default_factory=Monitor)  # what else is looked at
    budget: Budget = field(default_factory=Budget)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    sample_prompts: list[str] = field(default_factory=list)
    name: str = "run"
    run_dir: str = MISSING
    resume: str | None = None  # a run that goes on in place, by its own config and what is given here; or auto
    resume_sweep: str | None = None  # the directory of a sweep: what is missing of it is run
    compile: bool = False  # torch.compile
    loss: str = "full"  # full | chunked: the logits of 1,024 positions at a time; less memory, more time
    ema: float | None = None  # decay of averaged weights, e.g. 0.999, which are then what is validated and saved
    on_nan: str = "stop"  # a gradient that is not finite: stop | skip the step | rewind to the last checkpoint
    spike_sigmas: float = 8.0  # report steps whose loss is so many robust standard deviations up; 0 turns it off
    init_from: str | None = None  # a run, whose model, weights and tokenizer are taken instead of new ones
    objective: str = "val/loss"  # what a search (hydra/sweeper=optuna) minimises
    seed: int = 1337
    json: bool = False

    def __post_init__(self) -> None:
        known = f"choose one of {', '.join(SCORES)}"
        require(self.objective in SCORES, "objective", self.objective, "no such metric", known)
        require(0 <= self.seed < 2**32, "seed", self.seed, "is not in [0, 2^32)", "try 1337")
        require("" not in self.sample_prompts, "sample_prompts", self.sample_prompts, "has an empty one", "drop it")
        require(self.on_nan in ON_NAN, "on_nan", self.on_nan, "no such option", f"choose one of {', '.join(ON_NAN)}")
        there = self.loss in ("full", "chunked")
        require(there, "loss", self.loss, "no such option", "choose one of full, chunked")
        require(self.spike_sigmas >= 0, "spike_sigmas", self.spike_sigmas, "is negative", "0 turns it off")
        require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "is not in (0, 1)", "0.999 is usual")
        if self.trainer.sharded:
            muon = isinstance(self.optimizer, Muon)
            require(not muon, "optimizer", "muon", "needs whole matrices, fsdp shards them", "try adamw")
            require(self.ema is None, "ema", self.ema, "cannot average sharded weights", "leave it out")
            chunked = self.loss == "chunked"
            require(not chunked, "loss", "chunked", "needs the head whole, fsdp shards it", "leave it out")
            auto = self.data.micro_batch_size == "auto"
            require(not auto, "data.micro_batch_size", "auto", "cannot try out a sharded model", "give a number")


@dataclass
class SampleConfig:
    """Continue a prompt with the model of a run."""

    decoder: Any = MISSING
    run: str = "latest"
    prompt: str | None = None  # null: the run's first sample prompt
    prompts: list[str] = field(default_factory=list)  # or several, in one batch
    max_new_tokens: int = 100
    num_samples: int = 1  # of each prompt
    stop: list[str] = field(default_factory=list)  # a text ends before the first of these
    overflow: str = "crop"  # of the context: crop (forget the oldest tokens) | refuse
    controls: Controls = field(default_factory=Controls)  # penalties and bans, before the decoder
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


@dataclass
class EvaluateConfig:
    """Score the model of a run on held-out text: the run's own, or that of another `data`."""

    data: Any = None
    run: str = "latest"
    batch_size: int = 16
    block_size: int | None = None  # tokens per window; null: the context the model was trained with
    explain: bool = False  # RUN/surprise.html: every token of `text` coloured by its surprise
    text: str | None = None  # a file
    json: bool = False

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 16")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")
        require(self.explain == bool(self.text), "explain", self.explain, "goes with text=FILE", "give both or none")
        require(not (self.text and self.data), "text", self.text, "and data are given", "give one of them")


@dataclass
class TokenizeConfig:
    """Turn text into token shards, as the first training on it would, and say how well the tokenizer fits."""

    data: Any = MISSING
    tokenizer: Any = MISSING
    out: str | None = None  # a new folder; null: the cache, where `train` finds them
    processes: int | None = None  # null: one a core
    shard_mb: int = 256  # text in a shard, in millions of characters
    json: bool = False

    def __post_init__(self) -> None:
        require(
            self.processes is None or self.processes >= 1, "processes", self.processes, "must be at least 1", "try 1"
        )
        require(1 <= self.shard_mb <= 2048, "shard_mb", self.shard_mb, "is not in [1, 2048]", "256 is usual")


@dataclass
class AuditConfig:
    """Look into a data set: sizes, copies, overlap of the splits, long documents, ids and characters in trouble."""

    data: Any = MISSING
    tokenizer: Any = MISSING
    ngram: int = 13  # tokens in a row that count as overlap (13 words in Brown et al. 2020)
    json: bool = False

    def __post_init__(self) -> None:
        require(self.ngram >= 1, "ngram", self.ngram, "must be at least 1", "13 is usual")


@dataclass
class ReplayConfig:
    """Rebuild the batch of one step of a run: its windows, their text, and what the model makes of them now."""

    step: int = MISSING  # 1, 2, ...
    run: str = "latest"
    out: str | None = None  # a new file for the tensors x and y, (B, T) each
    json: bool = False

    def __post_init__(self) -> None:
        require(self.step >= 1, "step", self.step, "must be at least 1", "the first step is 1")


@dataclass
class ImportConfig:
    """Turn a Hugging Face model, GPT-2 or Llama, into a run directory."""

    hf: str = MISSING  # a directory, or OWNER/NAME on the hub
    out: str = MISSING
    json: bool = False


@dataclass
class ExportConfig:
    """Turn a run into a directory that transformers loads: as GPT-2 or as Llama."""

    out: str = MISSING
    run: str = "latest"
    json: bool = False


@dataclass
class ReportConfig:
    """All runs below some folders as one table, pictures and a web page."""

    runs: Any = "outputs"  # a folder or several, [DIR,DIR], also with *; or latest
    out: str | None = None  # a folder; null: `report` in the folder of the runs
    pictures: bool = True
    json: bool = False

    def __post_init__(self) -> None:
        self.runs = _as_list("runs", self.runs)


@dataclass
class CompareConfig:
    """Two runs, or the seeds of two configs, on the same held-out documents."""

    a: Any = MISSING  # a run, or several seeds of one config: [RUN,RUN], or with *
    b: Any = MISSING
    data: Any = None  # null: the documents that all of them hold out
    metric: str = "bits_per_byte"  # bits_per_byte | perplexity, which needs one tokenizer and one protocol
    batch_size: int = 16
    block_size: int | None = None  # tokens per window; null: the context each model was trained with
    resamples: int = 10_000  # of the bootstrap
    seed: int = 1337  # of the bootstrap
    out: str | None = None  # a JSON file; null: A/compare/B.json
    json: bool = False

    def __post_init__(self) -> None:
        for key in ("a", "b"):
            setattr(self, key, _as_list(key, getattr(self, key)))
        why, todo = "no such option", "choose one of bits_per_byte, perplexity"
        require(self.metric in ("bits_per_byte", "perplexity"), "metric", self.metric, why, todo)
        require(self.resamples >= 100, "resamples", self.resamples, "is too few", "10000 is usual")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "must be at least 1", "try 16")
        size = self.block_size
        require(size is None or size >= 1, "block_size", size, "must be at least 1", "leave it out")


def _as_list(key: str, value: Any) -> list[str]:
    """One path or several."""
    paths = [str(path) for path in value] if isinstance(value, list) else [str(value)]
    require(bool(paths) and all(paths), key, value, "is empty", "give a folder, or several as [DIR,DIR]")
    return paths


VERB_CONFIGS = {
    "train": TrainConfig,
    "sample": SampleConfig,
    "evaluate": EvaluateConfig,
    "check": TrainConfig,
    "replay": ReplayConfig,
    "tokenize": TokenizeConfig,
    "audit": AuditConfig,
    "import": ImportConfig,
    "export": ExportConfig,
    "report": ReportConfig,
    "compare": CompareConfig,
}


def register() -> None:
    """Tell Hydra every dataclass, as /schema/<name>: the YAML options start from them."""
    store = ConfigStore.instance()
    for node in [*COMPONENTS, *VERB_CONFIGS.values()]:
        store.store(group="schema", name=node.__name__, node=node)


def quoted(text: str) -> str:
    """A text as the value of an override, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


# Hydra's own options that have a value after them
VALUE_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp", "--package", "-p")


def quote_values(argv: list[str]) -> list[str]:
    """Hydra takes no `=` in a bare value, but the directories of a sweep have it in their names: run=0-seed=1. And it
    reads `debug=nan` as a number."""
    argv = [re.sub(r"\bnan\b", "'nan'", arg) if re.fullmatch(r"debug=[\w,]+", arg) else arg for arg in argv]
    bare = re.compile(r"""(?P<key>[^-=][^=]*)=(?P<value>[^'"()\[\]{}]*=[^'"()\[\]{}]*)""")
    found = [None if argv[i - 1] in VALUE_FLAGS else bare.fullmatch(arg) for i, arg in enumerate(argv)]
    return [f"{m['key']}={quoted(m['value'])}" if m else arg for m, arg in zip(found, argv, strict=True)]


def _slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.,=+-]+", "_", text)[:150]


# here, not in register(): a job on another machine begins by importing this module
OmegaConf.register_new_resolver("slug", _slug, replace=True)
OmegaConf.register_new_resolver("per_width", lambda rate, n_embd: float(rate) * (768 / n_embd) ** 0.5, replace=True)


def record(config: TrainConfig) -> dict[str, Any]:
    """A run's config.yaml: every value, and in `defaults` the class of every part, so that it composes again.

    `gptlab train --config-dir RUN --config-name config` repeats the run.
    """
    values = {**dataclasses.asdict(config), "resume": None}
    del values["run_dir"]
    parts = {f.name: type(getattr(config, f.name)).__name__ for f in dataclasses.fields(config) if f.default is MISSING}
    parts |= {f"data.parts.{name}": type(part).__name__ for name, part in getattr(config.data, "parts", {}).items()}
    schemas = [f"/schema/{kind}@{name}" for name, kind in parts.items() if name != "run_dir"]
    return {"defaults": ["/schema/TrainConfig@_here_", *schemas, "/door/train", "_self_"], **values}


def flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """The values of a config by their full keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{within}{key}.") if isinstance(value, dict) else {f"{within}{key}": value}
    return found


def conf_dir() -> Path:
    """The config tree: inside the package in a wheel, at the root of a checkout."""
    here = Path(__file__).resolve().parent
    return next(p for p in (here / "conf", here.parents[1] / "conf") if p.is_dir())


def compose(
    verb: str, overrides: list[str] | None = None, config_dir: Path | None = None, config_name: str | None = None
) -> Any:
    """The typed config of a verb, as its command would get it: `compose("train", ["model=micro"])`.

    `config_dir` and `config_name` compose a run's own config.yaml instead, as Hydra's options of these names do.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir or conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{conf_dir()}]"
        cfg = hydra_compose(config_name or verb, [*quote_values(overrides or []), search], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        run_dir = str(Path(cfg.hydra.run.dir).absolute())
        with open_dict(cfg):
            del cfg["hydra"]
        return to_typed(cfg, run_dir)
    finally:
        HydraConfig.instance().cfg = None


def to_typed(cfg: DictConfig, run_dir: str) -> Any:
    """Plain objects all the way down; a component's complaint is named by its full key."""
    if OmegaConf.is_missing(cfg, "run_dir"):
        cfg.run_dir = run_dir
    fields: dict[str, Any] = {}
    for key in map(str, cfg):
        require(not OmegaConf.is_missing(cfg, key), key, "???", "is needed", f"give {key}=...")
        try:
            fields[key] = OmegaConf.to_object(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key]
        except UserError as error:
            raise error.within(key) from error
    config_type = OmegaConf.get_type(cfg)
    assert config_type is not None
    return config_type(**fields)
