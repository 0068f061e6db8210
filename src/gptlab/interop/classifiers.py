"""Write a classifier as the model for sequence classification of a family of transformers."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import UserError, require
from gptlab.interop.families import FAMILIES
from gptlab.interop.family import Family
from gptlab.interop.names import config_to, weights_of
from gptlab.model.heads import LastTokenHead
from gptlab.tokenizers import Tokenizer

WITHOUT = ("granite",)  # families that transformers has no classifier of
NAMED = {"gemma3_text": "Gemma3TextForSequenceClassification"}  # otherwise than by the family's own name
ADVICE = "train it with task.head_bias=false"


def classifier_to(
    model: LastTokenHead, labels: Sequence[str], prefer: str | None, kinds: Collection[str]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the config.json and the tensors of transformers' model that gives texts the same logits for their labels.

    It is of one of the families `kinds`, `prefer` first. Their layer over the last token has no bias: ours becomes a
    part of the bias of the norm before it, where there is one. Raises UserError where there is no such model.
    """
    hf = config_to(model.config, prefer, [kind for kind in kinds if kind not in WITHOUT])
    family = FAMILIES[hf["model_type"]]
    weights = {name: w for name, w in weights_of(model.gpt, hf).items() if not family.is_head(name)}
    weights["score.weight"] = model.score.weight.detach().contiguous()
    if model.score.bias is not None and bool(model.score.bias.any()):
        _fold(model.score.bias.detach(), weights, family)
    usual = family.architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel") + "ForSequenceClassification"
    names = {str(number): label for number, label in enumerate(labels)}
    about = {"id2label": names, "label2id": {label: int(number) for number, label in names.items()}}
    about |= {"num_labels": len(labels), "problem_type": "single_label_classification"}
    return {**hf, "architectures": [NAMED.get(family.model_type, usual)], **about}, weights


def padding_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that pads texts: transformers takes the last token that is another one for the end of a text.

    None where each id may be the last one of a text; transformers then reads one text at a time.
    """
    if tokenizer.declared.pad is not None:
        return tokenizer.declared.pad
    return None if tokenizer.eot_is_text else tokenizer.eot


def _fold(bias: Tensor, weights: dict[str, Tensor], family: Family) -> None:
    """Add to the bias of the last norm what the layer over it turns into `bias`, (N,)."""
    name, score = family.root + family.theirs("ln_f.bias")[0], weights["score.weight"].double()
    why = "the head of its task has a bias, which no model for sequence classification of Hugging Face has"
    if name not in weights:
        raise UserError("run", family.model_type, why, ADVICE)
    shift = torch.linalg.pinv(score) @ bias.double()
    require(torch.allclose(score @ shift, bias.double(), atol=1e-6), "run", family.model_type, why, ADVICE)
    weights[name] = (weights[name].double() + shift).to(weights[name].dtype)
