"""Refuse what is asked for that a model cannot do: models of other packages may have less than gptlab's own."""

import inspect
from typing import Any

from gptlab.errors import require
from gptlab.optim.optimizers import Muon
from gptlab.registry import name_of
from gptlab.training.config import TrainConfig


def require_abilities(config: TrainConfig, gpt: Any, by_document: bool) -> None:
    """Refuse settings that need more of the model `gpt`, or of the one with the task's head, than it has.

    `by_document` tells whether documents are read apart.
    """
    chunked, muon = config.loss == "chunked", isinstance(config.optimizer, Muon)
    recomputes = config.trainer.activation_checkpointing
    needed = [
        ("data.mask_documents", "true", by_document, _takes_documents(gpt), "forward(idx, documents)"),
        ("loss", "chunked", chunked, hasattr(gpt, "hidden") and hasattr(gpt, "logits"), "hidden() and logits()"),
        ("trainer.activation_checkpointing", "true", recomputes, hasattr(gpt, "recompute"), "the switch recompute"),
        ("optimizer", name_of(config.optimizer), muon, hasattr(gpt, "blocks"), "blocks, whose matrices it updates"),
    ]
    for key, value, asked, able, what in needed:
        why = f"needs a model with {what}, which model={name_of(gpt.config)} does not have"
        require(able or not asked, key, value, why, "leave it out")


def _takes_documents(gpt: Any) -> bool:
    return "documents" in inspect.signature(gpt.forward).parameters
