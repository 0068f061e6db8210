"""What the other verbs are asked: one dataclass a verb."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from gptlab.decoding.logits_processors import LogitsProcessors
from gptlab.errors import require
from gptlab.training.config import TrainConfig


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
    logits_processors: LogitsProcessors = field(default_factory=LogitsProcessors)  # penalties and bans, in a chain
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
        require(self.seed >= 0, "seed", self.seed, "is negative", "give 0 or more")
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
