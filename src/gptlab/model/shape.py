"""The sizes and choices that make a GPT; without torch, so that reading a config does not import it."""

from dataclasses import dataclass

from gptlab.errors import require, require_choice

CHOICES = {
    "positions": ("learned", "rope", "alibi", "none"),
    "norm": ("layer", "rms", "zero_centered_rms", "plain_layer"),
    "norm_at": ("before", "after", "both"),
    "residual": ("sequential", "parallel", "parallel_one_norm"),
    "feed_forward": ("gelu", "swiglu", "relu2", "gelu_exact", "relu", "silu", "geglu"),
    "qk_norm_over": ("head", "all"),
    "rope_type": ("llama3", "linear", "dynamic", "yarn", "longrope"),
    "init": ("gpt2", "zero", "torch"),
    "parametrization": ("standard", "mup", "completep"),
}

MOST_LAYERS, MOST = 10_000, 2**31 - 1  # far beyond any model


@dataclass(frozen=True)
class RopeScaling:
    """A scaling of rotary positions to a longer context.

    With `linear`, all rotations are slowed down by `factor`. With `llama3` (Llama 3.1) and `yarn` (Peng et al. 2023)
    slow ones are, and fast ones are kept: `low_freq` and `high_freq` count turns within `original` positions, and
    between the two the change is gradual. `dynamic` raises the base for texts of more than `original` tokens.
    `longrope` (Ding et al. 2024) slows each rotation by a factor of its own, of `long` for such texts, else of `short`.
    """

    factor: float
    low_freq: float
    high_freq: float
    original: int
    type: str = "llama3"
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass
class GPTShape:
    """The shape of a GPT; the defaults are GPT-2 small."""

    n_layer: int = 12  # blocks, each attention and a feed-forward
    n_head: int = 12  # heads of attention in each block
    n_embd: int = 768  # width of the residual stream
    block_size: int = 1024  # context: tokens that the model reads at once
    vocab_size: int = 50257  # 0: as many as the tokenizer has; more are padding, never drawn
    n_kv_head: int | None = None  # key-value heads; null: n_head
    n_inner: int | None = None  # width of the feed-forward; null: 4 n_embd
    head_size: int | None = None  # width of a head; null: n_embd / n_head
    positions: str = "learned"  # learned | rope | alibi | none
    norm: str = "layer"  # layer | rms | zero_centered_rms (Gemma's: weights around 0) | plain_layer (no weights)
    norm_eps: float = 1e-5  # added to the variance in a norm
    norm_at: str = "before"  # before attention and feed-forward | after them | both
    residual: str = "sequential"  # sequential | parallel (attention and feed-forward read x) | parallel_one_norm
    residual_scale: float = 1.0  # multiplies what each layer adds
    feed_forward: str = "gelu"  # gelu | swiglu | relu2 | gelu_exact | relu | silu | geglu
    qk_norm: bool = False  # normalize queries and keys
    qk_norm_over: str = "head"  # head: each head by itself | all: all of them together
    qk_norm_eps: float | None = None  # null: the epsilon of the number format
    attention_scale: float | None = None  # multiplies the scores; null: 1 / sqrt(width of a head)
    attention_softcap: float = 0.0  # c in c tanh(scores / c); 0: off
    window: int | None = None  # tokens that a position attends to, itself included; null: all before it
    full_attention_every: int = 0  # each such layer attends to all tokens in spite of the window; 0: none
    window_layers: list[int] | None = None  # those with the window, from 0; null: as full_attention_every says
    qkv_clip: float = 0.0  # queries, keys and values are kept between -c and c; 0: off
    bias: bool = True  # biases of linear layers and layer norms
    qkv_bias: bool | None = None  # biases of queries, keys and values; null: as `bias`
    proj_bias: bool | None = None  # bias of attention's output; null: as `bias`
    tied: bool = True  # the head shares the token embedding (Press & Wolf 2017)
    head_bias: bool = False  # a bias in the head, which gives the logits
    embedding_norm: bool = False  # a norm behind the token embedding
    embedding_scale: float = 1.0  # multiplies the token embedding
    logit_divisor: float = 1.0  # divides the logits
    logit_softcap: float = 0.0  # c in c tanh(logits / c); 0: off
    dropout: float = 0.0  # share of activations that are zeroed in training
    init: str = "gpt2"  # first weights of residual projections: gpt2 (scaled) | zero; torch: PyTorch's own for all
    parametrization: str = "standard"  # standard | mup | completep: one optimizer.lr suits all widths, all depths too
    base_width: int = 128  # mup, completep: the n_embd that optimizer.lr is meant for, where they are standard
    base_depth: int = 4  # completep: the n_layer that optimizer.lr is meant for
    base_head_size: int | None = None  # mup, completep: width of a head there; null: as here, wider means more heads
    rope_base: float = 10000.0  # base of the wavelengths of rotary positions
    rope_fraction: float = 1.0  # the share of each head that is rotated
    no_rope_every: int = 0  # each such layer has no positions; 0: none
    rope_base_window: float | None = None  # base of the layers with a window, unscaled; null: as all
    rope_type: str = "llama3"  # llama3 | linear | dynamic | yarn | longrope: scaling, if rope_factor is not 1
    rope_factor: float = 1.0  # above 1: scaling to a longer context, with the settings below
    rope_magnitude: float = 1.0  # multiplies rotated queries and keys
    rope_low_freq: float = 1.0  # rotations over the old context, below which a wave is slowed down entirely
    rope_high_freq: float = 4.0  # rotations over the old context, above which a wave stays as it is
    rope_original: int = 8192  # the old context, in tokens
    rope_short: list[float] | None = None  # longrope: divide the frequencies in texts of up to rope_original tokens
    rope_long: list[float] | None = None  # longrope: divide the frequencies in longer texts

    def __post_init__(self) -> None:
        for key in (
            "n_layer",
            "n_head",
            "n_embd",
            "block_size",
            "n_kv_head",
            "n_inner",
            "rope_original",
            "head_size",
            "window",
            "base_width",
            "base_depth",
            "base_head_size",
        ):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be at least 1", "give a positive integer")
            most = MOST_LAYERS if key == "n_layer" else MOST
            require(value is None or value <= most, key, value, f"is more than {most:,}", "give a smaller one")
        for key, choices in CHOICES.items():
            require_choice(key, getattr(self, key), choices)
        heads = [h for h in range(1, min(self.n_embd, 64) + 1) if self.n_embd % h == 0]
        why, todo = f"does not divide n_embd={self.n_embd}", f"choose one of {', '.join(map(str, heads))}"
        require(self.head_size is not None or self.n_embd % self.n_head == 0, "n_head", self.n_head, why, todo)
        groups = [h for h in range(1, min(self.n_head, 64) + 1) if self.n_head % h == 0]
        why, todo = f"does not divide n_head={self.n_head}", f"choose one of {', '.join(map(str, groups))}"
        require(self.n_head % self.kv_heads == 0, "n_kv_head", self.n_kv_head, why, todo)
        odd = self.positions == "rope" and (self.head_dim % 2 or self.rotated % 2)
        require(not odd, "n_head", self.n_head, f"leaves heads of odd width {self.head_dim}", "rope turns pairs")
        require(self.vocab_size >= 0, "vocab_size", self.vocab_size, "is negative", "0 takes the tokenizer's")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "is not in [0, 1)", "0.0 turns it off")
        require(0 < self.rope_fraction <= 1, "rope_fraction", self.rope_fraction, "is not in (0, 1]", "1.0 rotates all")
        for key in ("logit_softcap", "attention_softcap", "qkv_clip", "full_attention_every", "no_rope_every"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "is negative", "0 turns it off")
        for key in (
            *("norm_eps", "rope_base", "rope_factor", "rope_magnitude", "residual_scale", "embedding_scale"),
            *("logit_divisor", "attention_scale", "qk_norm_eps", "rope_base_window"),
        ):
            value, usual = getattr(self, key), getattr(type(self), key)
            require(value is None or value > 0, key, value, "is not above 0", f"{usual or 'null'} is usual")
        parallel = self.residual != "sequential" and self.norm_at != "before"
        require(not parallel, "norm_at", self.norm_at, f"has no meaning with residual={self.residual}", "before has")
        if self.rope_scaling is not None and self.rope_type == "longrope":
            for key in ("rope_short", "rope_long"):
                each, count = getattr(self, key) or [], self.rotated // 2
                fits = len(each) == count and min(each) > 0
                require(fits, key, getattr(self, key), f"are not {count} factors above 0", "give one for each pair")
        beyond = [layer for layer in self.window_layers or [] if not 0 <= layer < self.n_layer]
        require(not beyond, "window_layers", beyond, f"are none of {self.n_layer} layers", "the first is 0")
        own = self.init == "torch" and self.parametrization != "standard"
        why = f"sets first weights by rules of its own, and parametrization={self.parametrization} has others"
        require(not own, "init", self.init, why, "choose gpt2 or zero")
        require(self.rope_low_freq < self.rope_high_freq, "rope_low_freq", self.rope_low_freq, "is not the lower", "1")

    @property
    def kv_heads(self) -> int:
        """The number of key-value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.n_embd // self.n_head if self.head_size is None else self.head_size

    @property
    def rotated(self) -> int:
        """The number of a head's components that rotary positions turn."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def width_ratio(self) -> float:
        """The width over that of the base, where the parametrization asks for it; else 1."""
        return 1.0 if self.parametrization == "standard" else self.n_embd / self.base_width

    @property
    def depth_ratio(self) -> float:
        """The number of layers over that of the base, where the parametrization asks for it; else 1."""
        return self.n_layer / self.base_depth if self.parametrization == "completep" else 1.0

    @property
    def scores_scale(self) -> float | None:
        """The multiplier of attention's scores: 1 / D in heads of width D, from the base on; None: 1 / sqrt(D)."""
        base = self.base_head_size
        if self.parametrization == "standard" or base is None or base == self.head_dim:
            return self.attention_scale
        there = base**-0.5 if self.attention_scale is None else self.attention_scale
        return there * base / self.head_dim

    @property
    def layer_scale(self) -> float:
        """The multiplier of what each layer adds."""
        return self.residual_scale / self.depth_ratio

    @property
    def head_divisor(self) -> float:
        """The divisor of the logits."""
        return self.logit_divisor * self.width_ratio

    def has_window(self, layer: int) -> bool:
        """Tell whether a layer attends to the last `window` tokens only."""
        every = self.full_attention_every
        if self.window_layers is not None:
            return self.window is not None and layer in self.window_layers
        return self.window is not None and not (every and (layer + 1) % every == 0)

    def has_positions(self, layer: int) -> bool:
        """Tell whether a layer rotates queries and keys, with rotary positions."""
        return not (self.no_rope_every and (layer + 1) % self.no_rope_every == 0)

    @property
    def reads_beyond(self) -> bool:
        """Tell whether the model reads more than block_size tokens at once: learned positions end there."""
        return self.positions != "learned"

    @property
    def rope_scaling(self) -> RopeScaling | None:
        """The scaling of rotary positions; None where there is none."""
        if self.rope_factor == 1 and self.rope_type != "longrope":
            return None
        factors = tuple(self.rope_short or ()), tuple(self.rope_long or ())
        bounds = self.rope_low_freq, self.rope_high_freq
        return RopeScaling(self.rope_factor, *bounds, self.rope_original, self.rope_type, *factors)
