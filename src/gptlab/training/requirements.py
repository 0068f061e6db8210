"""Refuse what is asked for that a model cannot do: models of other packages may have less than gptlab's own."""

import inspect
from typing import Any

from gptlab.errors import require
from gptlab.optim.optimizers import Muon
from gptlab.optim.scaling import hidden_matrices, require_rule
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
    require_rule(config.optimizer, gpt)
    if getattr(config.optimizer, "hyperball", False):
        held = hidden_matrices(gpt)
        why = "keeps the norms of matrices in a model's blocks, and none of them is trained"
        require(bool(held), "optimizer.hyperball", "true", why, "leave it out")
        why = "keeps the norms of matrices, and some of them are 0, as with model.init=zero"
        require(all(p.any() for p in held), "optimizer.hyperball", "true", why, "leave it out, or take model.init=gpt2")


def _takes_documents(gpt: Any) -> bool:
    return "documents" in inspect.signature(gpt.forward).parameters
