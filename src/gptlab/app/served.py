"""Load the runs that pages play with, and name them without their paths."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.errors import require
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.chat_templates import ChatTemplate


@dataclass(frozen=True)
class Served:
    """A model that is served: in eval mode, on its device; its template is None where it has none to chat in."""

    name: str
    gpt: Any
    tokenizer: Tokenizer
    template: ChatTemplate | None
    prompts: list[str]  # those that the run continued while it was trained

    @property
    def block_size(self) -> int:
        """The number of tokens that the model reads at once."""
        return int(self.gpt.config.block_size)

    def about(self) -> dict[str, Any]:
        """Return what pages know of the model."""
        return {
            "name": self.name,
            "chat": self.template is not None,
            "context": self.block_size,
            "prompts": self.prompts,
        }


def named_runs(runs: Sequence[RunDir]) -> dict[str, RunDir]:
    """Return runs by the names that pages have for them: titles, with the checkpoint unless it is the last.

    Equal names are numbered. Raises UserError for a run that is given twice, and for one whose model does not predict
    the next token.
    """
    from gptlab.evaluation.model import require_next_tokens

    files = {(run.path.resolve(), run.checkpoint.name) for run in runs}
    require(len(files) == len(runs), "run", runs[0].path, "is given twice", "give others")
    found = dict[str, RunDir]()
    for run in runs:
        require_next_tokens(run)
        checkpoint = run.checkpoint.stem
        name = run.title() if checkpoint == "last" else f"{run.title()}, {checkpoint}"
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        found[next(each for each in itertools.chain([name], numbered) if each not in found)] = run
    return found


def load_served(runs: Mapping[str, RunDir]) -> list[Served]:
    """Load the models of runs, by their names on pages."""
    from gptlab.evaluation.chat import template_if_any
    from gptlab.evaluation.model import load_for_decoding

    found = []
    for name, run in runs.items():
        gpt, tokenizer = load_for_decoding(run, "32-true")
        template, _ = template_if_any(run, tokenizer)
        found.append(Served(name, gpt, tokenizer, template, list(run.sample_prompts())))
    return found
