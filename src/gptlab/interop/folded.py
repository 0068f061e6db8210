"""Move the multipliers of a parametrization into the weights, for formats that do not have them."""

import dataclasses
from typing import Any

import torch
from torch import nn

from gptlab.errors import require
from gptlab.model.layers import ZeroCenteredRMSNorm


@torch.no_grad()
def fold(gpt: Any) -> None:
    """Make a GPT one of the standard parametrization that computes the same, in place.

    The factor of each layer goes into its last matrix or the norm behind that, that of the scores into queries or
    their norm, that of the logits into the last norm or else the head. A GPT whose head a task has taken away keeps
    its hidden states. Raises UserError where there is no place for a factor.
    """
    c = gpt.config
    of_scores = (c.scores_scale or c.head_dim**-0.5) / (c.attention_scale or c.head_dim**-0.5)
    for block in gpt.blocks:
        for last, behind in ((block.attn.proj, block.post_1), (block.mlp.proj, block.post_2)):
            _scale(last if isinstance(behind, nn.Identity) else behind, 1 / c.depth_ratio, "base_depth", c.base_depth)
        if c.qk_norm:
            _scale(block.attn.q_norm, of_scores, "base_head_size", c.base_head_size)
        elif of_scores != 1:
            why, todo = "has no place in a model with qkv_clip", "train without one of them"
            require(c.qkv_clip == 0, "model.base_head_size", c.base_head_size, why, todo)
            for p in block.attn.qkv.parameters():
                p[: c.n_head * c.head_dim] *= of_scores
        block.scale, block.attn.scale = c.residual_scale, c.attention_scale
    if isinstance(gpt.lm_head, nn.Linear):
        last = gpt.lm_head if c.norm == "plain_layer" and not c.tied else gpt.ln_f
        _scale(last, 1 / c.width_ratio, "base_width", c.base_width)
        if last is gpt.ln_f and gpt.lm_head.bias is not None:
            gpt.lm_head.bias.div_(c.width_ratio)
    gpt.config = dataclasses.replace(c, parametrization="standard")


def _scale(layer: Any, factor: float, key: str, base: int | None) -> None:
    """Multiply what a linear layer or a norm puts out by a factor, which the base size of a key has made."""
    if factor == 1:
        return
    why, todo = "has no place in norms without weights", "export a run with another model.norm"
    require(getattr(layer, "weight", None) is not None, f"model.{key}", base, why, todo)
    if isinstance(layer, ZeroCenteredRMSNorm):
        layer.weight.copy_((1 + layer.weight) * factor - 1)
        return
    for p in (layer.weight, getattr(layer, "bias", None)):
        if p is not None:
            p *= factor
