"""Define decoder-only Transformers by one config, such as GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from gptlab.errors import require
from gptlab.model.attention import CacheShape, CausalSelfAttention, KVCache
from gptlab.model.layers import MLP, norm
from gptlab.model.positions import Rotation, alibi_bias, distances, first_of, lengths, recent, rotation, within
from gptlab.model.ring import RingCache, RingSlots
from gptlab.model.shape import GPTShape
from gptlab.model.slots import SlotCache


class Block(nn.Module):
    """One layer: attention and feed-forward, each added to its input, (B, T, C) -> (B, T, C)."""

    def __init__(self, config: GPTShape) -> None:
        super().__init__()
        c = config
        before, after = c.norm_at != "after", c.norm_at != "before"
        self.residual, self.scale = c.residual, c.layer_scale
        self.ln_1 = _norm(c, before)
        self.attn = CausalSelfAttention(c)
        self.post_1 = _norm(c, after)
        self.ln_2 = _norm(c, before and c.residual != "parallel_one_norm")
        self.mlp = MLP(c.feed_forward, c.n_embd, 4 * c.n_embd if c.n_inner is None else c.n_inner, c.dropout, c.bias)
        self.post_2 = _norm(c, after)

    def forward(
        self, x: Tensor, rotation: Rotation | None, bias: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        h = self.ln_1(x)
        mixed = x + self._scaled(self.post_1(self.attn(h, rotation, bias, cache, layer)))
        read = {"sequential": mixed, "parallel": x, "parallel_one_norm": h}[self.residual]
        return mixed + self._scaled(self.post_2(self.mlp(self.ln_2(read))))

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else self.scale * x


def _norm(config: GPTShape, is_there: bool) -> nn.Module:
    return norm(config.norm, config.n_embd, config.norm_eps, config.bias) if is_there else nn.Identity()


class GPT(nn.Module):
    """A Transformer: token ids (B, T) in, next-token logits (B, T, V) out; T <= block_size for learned positions.

    With `recompute` the backward pass computes each block again instead of keeping its activations (activation
    checkpointing: Chen et al. 2016).
    """

    recompute = False

    def __init__(self, config: GPTShape) -> None:
        super().__init__()
        require(config.vocab_size >= 1, "vocab_size", config.vocab_size, "is unknown", "take the tokenizer's")
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        if config.positions == "learned":
            self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.ln_wte = _norm(config, config.embedding_norm)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = _norm(config, True)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=config.head_bias)
        self.tie()
        if config.init != "torch":
            self.apply(self._init)

    def tie(self) -> None:
        """Use the token embedding as the head, if the config says so; loading by assignment undoes it."""
        if self.config.tied:
            self.lm_head.weight = self.wte.weight

    def _init(self, layer: nn.Module) -> None:
        """Draw weights from a normal of sd 0.02; residual projections divided by sqrt(2 n_layer), or zero.

        Matrices in the blocks are divided by the root of the width ratio, and with completep n_layer is the base's.
        """
        c = self.config
        std = 0.02 / math.sqrt(c.width_ratio)
        if isinstance(layer, nn.Linear | nn.Embedding):
            outside = isinstance(layer, nn.Embedding) or layer is self.lm_head
            nn.init.normal_(layer.weight, std=0.02 if outside else std)
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
        if isinstance(layer, CausalSelfAttention | MLP):
            layers = c.n_layer / c.depth_ratio
            nn.init.normal_(layer.proj.weight, std=std / math.sqrt(2 * layers) if c.init == "gpt2" else 0.0)

    def forward(
        self, idx: Tensor, documents: Tensor | None = None, cache: KVCache | None = None, last: bool = False
    ) -> Tensor:
        """Return the logits (B, T, V) of what follows each id, or, with `last`, of what follows the last ids alone."""
        hidden = self.hidden(idx, documents, cache)
        return self.logits(hidden[:, -1:] if last else hidden)

    def hidden(self, idx: Tensor, documents: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Return the input of the head, (B, T, C).

        `documents` (B, T) numbers the documents of each row: no position then attends to another document.

        With a `cache`, `idx` are the tokens that follow the cached ones; they are added to it.
        """
        config, T, device = self.config, idx.shape[1], idx.device
        before = 0 if cache is None else cache.length
        at = torch.arange(T, device=device) if cache is None else cache.positions(T)
        mask = None if cache is None else cache.mask(T)
        x, turn, bias = self.ln_wte(self.wte(idx)), None, None  # (B, T, C)
        if config.embedding_scale != 1:
            x = x * config.embedding_scale
        if config.positions == "learned":
            if before + T > config.block_size:
                raise ValueError(f"{before + T} tokens do not fit into block_size={config.block_size}")
            x = x + self.wpe(at if documents is None else at - first_of(documents))
        elif config.positions == "rope":
            scaling, magnitude = config.rope_scaling, config.rope_magnitude
            length = None if documents is None or scaling is None else lengths(documents)
            if isinstance(cache, RingCache):
                at, length = at.double(), cache.text_lengths(T)
                cache.shifts = self._sink_shifts(cache, T, length)
            turn = rotation(at, config.rotated, config.rope_base, scaling, magnitude, length)
        elif config.positions == "alibi":
            bias = alibi_bias(config.n_head, _distances(at, cache))
        for more in (mask, None if documents is None else within(documents)):
            if more is not None:
                bias = more if bias is None else bias + more
        far = near = turn, bias
        if config.window is not None:
            near = self._within_window(turn, bias, at, cache)
        x = self.dropout(x)
        recompute = self.recompute and torch.is_grad_enabled()
        for layer, block in enumerate(self.blocks):
            turn, bias = near if config.has_window(layer) else far
            ins = (x, turn if config.has_positions(layer) else None, bias, cache, layer)
            x = recomputed(block, *ins) if recompute else block(*ins)
        if cache is not None:
            cache.advance(T)
            x = x[:, -1:]  # only the last position's prediction is new
        return self.ln_f(x)

    def _within_window(
        self, turn: Rotation | None, bias: Tensor | None, at: Tensor, cache: KVCache | None
    ) -> tuple[Rotation | None, Tensor | None]:
        """Return the rotation and the bias on scores of the layers with a window."""
        config, window, distance = self.config, self.config.window, _distances(at, cache)
        assert window is not None
        if turn is not None and config.rope_base_window is not None:
            turn = rotation(at, config.rotated, config.rope_base_window, None)
        if distance.shape[-1] > window:
            more = recent(distance, window)
            bias = more if bias is None else bias + more
        return turn, bias

    def _sink_shifts(self, cache: RingCache, T: int, length: Tensor) -> list[Rotation | None]:
        """Return the rotation of each layer by which the sinks of a ring follow the next T tokens; None for none."""
        config, moved = self.config, cache.moved(T)
        if moved is None:
            return [None] * config.n_layer
        moved, base = moved.double(), config.rope_base_window
        far = near = rotation(moved, config.rotated, config.rope_base, config.rope_scaling, length=length)
        if base is not None:
            near = rotation(moved, config.rotated, base, None)
        layers = range(config.n_layer)
        return [(near if config.has_window(i) else far) if config.has_positions(i) else None for i in layers]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V) of hidden states (..., C)."""
        logits: Tensor = self.lm_head(hidden)
        if self.config.head_divisor != 1:
            logits = logits / self.config.head_divisor
        if cap := self.config.logit_softcap:
            logits = cap * torch.tanh(logits / cap)
        return logits

    @property
    def reads_again_beyond(self) -> int | None:
        """The number of tokens beyond which all of a text is read otherwise, so that a cache of it is of no use."""
        scaling = self.config.rope_scaling
        return scaling.original if scaling is not None and scaling.type == "longrope" else None

    @property
    def has_ring(self) -> bool:
        """Tell whether a cache may forget the first tokens of a text: learned positions end at block_size."""
        return self.config.positions != "learned"

    @property
    def has_sinks(self) -> bool:
        """Tell whether a ring may keep the first tokens of each text for ever."""
        return self.has_ring

    @property
    def _cache_shape(self) -> CacheShape:
        return CacheShape(self.config.n_layer, self.config.kv_heads, self.config.head_dim, self.wte.weight)

    def new_cache(
        self, batch: int, size: int, padding: Tensor | None = None, ring: int | None = None, sinks: int = 0
    ) -> KVCache:
        """Return an empty cache with room for `size` tokens of each row.

        With a `ring`, it has room for so many of them at most: the first `sinks`, and the last ones.
        """
        if ring is None:
            return KVCache(self._cache_shape, batch, size, padding)
        return RingCache(self._cache_shape, batch, size, padding, ring, sinks)

    def new_slots(self, ring: int | None = None, sinks: int = 0) -> SlotCache:
        """Return a cache without rows, which texts of any length join and leave; with a `ring` for each of them."""
        return SlotCache(self._cache_shape) if ring is None else RingSlots(self._cache_shape, ring, sinks)


def _distances(at: Tensor, cache: KVCache | None) -> Tensor:
    """Return how far the tokens at positions `at` are behind each key that they look at."""
    return distances(at, at) if cache is None else cache.distances(at.shape[-1])


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """Compute `module(*inputs)` and, instead of keeping its activations, compute it again in the backward pass.

    The second time uses the same weights, also where they are swapped for a pass.
    """
    swapped: dict[str, Any] = {name: p for name, p in module.named_parameters() if not p.is_leaf}
    if swapped:
        return checkpoint(lambda *ins: functional_call(module, swapped, ins), *inputs, use_reentrant=False)
    return checkpoint(module, *inputs, use_reentrant=False)


def read_by_document(gpt: Callable[..., Tensor], x: Tensor, separator: int | None) -> Tensor:
    """Return logits (B, T, V) of ids x (B, T), each document by itself; without a `separator` a row is one text."""
    return gpt(x) if separator is None else gpt(x, documents=(x == separator).cumsum(1))


def num_params(gpt: nn.Module) -> int:
    """Count the trainable numbers; tied ones count once."""
    return sum(p.numel() for p in gpt.parameters() if p.requires_grad)


def num_weights(gpt: nn.Module) -> int:
    """Count all numbers, also those that are not trained; tied ones count once."""
    return sum(p.numel() for p in gpt.parameters())


def num_frozen(gpt: nn.Module) -> int:
    """Count the weights of linear layers that are not trained: they cost no gradient, 2 operations each."""
    linear = [m.weight for m in gpt.modules() if isinstance(m, nn.Linear)]
    return sum(w.numel() for w in linear if not w.requires_grad)
