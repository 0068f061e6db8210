"""Pretrain, sample and judge GPT-style language models.

The functions here are the Python API. Each imports what it needs when it is called, so that `import gptlab` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.registry import command, option
from gptlab.version import VERSION

if TYPE_CHECKING:
    from gptlab.data.config import BatchConfig
    from gptlab.decoding.decoders import Beam, Decoder
    from gptlab.tokenizers import Tokenizer
    from gptlab.training.config import TrainConfig

__all__ = ["command", "compose", "evaluate", "generate", "load", "option", "train"]
__version__ = VERSION


def load(run: str | Path = "latest") -> tuple[Any, Tokenizer]:
    """Return the model of a run (a directory, a checkpoint in it, or `latest`) in eval mode, and its tokenizer.

    The model has the head of the run's task.
    """
    from gptlab.evaluation.model import load_with_task
    from gptlab.runs.run_dir import RunDir

    return load_with_task(RunDir.find(str(run)))[1:]


def train(config: TrainConfig) -> dict[str, Any] | None:
    """Train a model and return what its run's summary.json holds.

    Everything about the run is written into one run directory. Returns None in every process but the first, where
    several train together. Raises UserError for what cannot be asked, RunFailed and Stopped for a run that ends early.
    """
    from gptlab.training.run import train

    return train(config)


def generate(
    model: tuple[Any, Tokenizer] | str | Path,
    prompt: str,
    decoder: Decoder | Beam | None = None,
    *,
    start: str | None = None,
    max_new_tokens: int = 100,
    num_samples: int = 1,
    stop: Sequence[str] = (),
    overflow: str = "crop",
    sinks: int = 0,
    seed: int = 1337,
) -> list[str]:
    """Return `num_samples` texts that continue a prompt.

    `model` is what `load` returned, or a run; the decoder is TopK() unless one is given. With `start="eot"` the prompt,
    which may then be empty, comes after the token that begins a document. A text ends where the model ends it, before
    the first of the `stop` strings, or after `max_new_tokens`. Beyond the context, `overflow="crop"` reads its end
    again for every token, "ring" reads each token once and keeps the first `sinks` tokens in view, and "refuse" raises
    UserError. The same seed gives the same texts, here and in `gptlab sample`.
    """
    from gptlab.decoding.context import Limits
    from gptlab.decoding.decoders import Beam, TopK
    from gptlab.decoding.generate import draw_key
    from gptlab.decoding.texts import best_continuations, continue_prompts
    from gptlab.errors import require
    from gptlab.evaluation.model import load_language_model
    from gptlab.runs.run_dir import RunDir

    require(start in (None, "eot"), "start", start, "no such option", "leave it out, or give eot")
    gpt, tokenizer = model if isinstance(model, tuple) else load_language_model(RunDir.find(str(model)))
    limits = Limits(max_new_tokens, gpt.config.block_size, tokenizer.ends, tokenizer.n_vocab, overflow, sinks)
    before = tokenizer.start if start is None else [tokenizer.eot]
    if isinstance(decoder, Beam):
        found = best_continuations(gpt, tokenizer, prompt, decoder, limits, num_samples, before)
    else:
        keys = [draw_key(seed, prompt, i) for i in range(num_samples)]
        prompts = [prompt] * num_samples
        found = continue_prompts(gpt, tokenizer, prompts, keys, decoder or TopK(), limits, stop=stop, start=before)
    return [each.text for each in found]


def evaluate(
    run: str | Path = "latest", data: BatchConfig | None = None, *, block_size: int | None = None, batch_size: int = 16
) -> dict[str, Any]:
    """Score the model of a run on held-out text: the run's own, or that of another `data`.

    Returns the loss in nats per token, the perplexity, the bits per byte, and the tokens and bytes that they cover.
    """
    from gptlab.evaluation.perplexity import evaluate
    from gptlab.runs.run_dir import RunDir

    return evaluate(RunDir.find(str(run)), data, block_size, batch_size)


def compose(verb: str, overrides: list[str] | None = None, run: str | Path | None = None) -> Any:
    """Return the typed config that a verb gets from a command line: `compose("train", ["model=micro", "seed=2"])`.

    `run` is a run's directory or config.yaml, whose values the overrides change. This is the only function here that
    needs Hydra.
    """
    from gptlab.config import compose

    return compose(verb, overrides, run)
