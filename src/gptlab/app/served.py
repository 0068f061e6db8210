"""Load the runs that pages play with, and name them without their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.errors import UserError, require
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


def load_served(runs: Sequence[RunDir]) -> list[Served]:
    """Load runs, in their order; raises UserError for a run whose model does not predict the next token."""
    import torch

    from gptlab.decoding.onednn import pack
    from gptlab.evaluation.model import load_language_model, require_next_tokens
    from gptlab.model.config import GPTConfig

    for run in runs:
        require_next_tokens(run)
    found = []
    for run, name in zip(runs, names_of(runs), strict=True):
        gpt, tokenizer = load_language_model(run)
        gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)  # as `gptlab sample`
        if type(gpt.config) is GPTConfig:
            pack(gpt)
        found.append(Served(name, gpt, tokenizer, _template(run, tokenizer), list(run.sample_prompts())))
    return found


def _template(run: RunDir, tokenizer: Tokenizer) -> ChatTemplate | None:
    from gptlab.evaluation.chat import template_of

    try:
        return template_of(run, tokenizer)
    except UserError:
        return None


def names_of(runs: Sequence[RunDir]) -> list[str]:
    """Return a name for each run: its title, with its checkpoint unless that is the last; equal ones are numbered."""
    files = {(run.path.resolve(), run.checkpoint.name) for run in runs}
    require(len(files) == len(runs), "run", runs[0].path, "is given twice", "give others")
    found = list[str]()
    for run in runs:
        title, checkpoint = run.title(), run.checkpoint.stem
        name = title if checkpoint == "last" else f"{title}, {checkpoint}"
        same = sum(each == name or each.startswith(f"{name} (") for each in found)
        found.append(f"{name} ({same + 1})" if same else name)
    return found
