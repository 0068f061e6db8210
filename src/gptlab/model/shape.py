"""The sizes and choices that make a GPT; without torch, so that reading a config does not import it."""

from dataclasses import dataclass

from gptlab.errors import require

CHOICES = {
    "positions": ("learned", "rope", "alibi", "none"),
    "norm": ("layer", "rms"),
    "feed_forward": ("gelu", "swiglu", "relu2"),
    "init": ("gpt2", "zero", "torch"),
}

MOST_LAYERS, MOST = 10_000, 2**31 - 1  # far beyond any model


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's scaling to a longer context: slow rotations are slowed down by `factor`, fast ones are kept.

    `low_freq` and `high_freq` count turns within `original` positions; between the two the change is gradual.
    """

    factor: float
    low_freq: float
    high_freq: float
    original: int


@dataclass
class GPTShape:
    """The shape of a GPT; the defaults are GPT-2 small."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024
    vocab_size: int = 50257  # 0: as many as the tokenizer has; a few more are padding, which is never drawn
    n_kv_head: int | None = None  # key-value heads; null: n_head
    n_inner: int | None = None  # width of the feed-forward; null: 4 n_embd
    positions: str = "learned"  # learned | rope | alibi | none
    norm: str = "layer"  # layer | rms
    norm_eps: float = 1e-5
    feed_forward: str = "gelu"  # gelu | swiglu | relu2
    qk_norm: bool = False
    bias: bool = True  # of linear layers and layer norms
    qkv_bias: bool | None = None  # of queries, keys and values; null: as `bias`
    tied: bool = True  # the head shares the token embedding (Press & Wolf 2017)
    logit_softcap: float = 0.0  # c tanh(logits / c); 0: off
    dropout: float = 0.0
    init: str = "gpt2"  # of residual projections: gpt2 (scaled) | zero; torch: PyTorch's own for all
    rope_base: float = 10000.0
    rope_factor: float = 1.0  # above 1: Llama 3's scaling to a longer context, with the three below
    rope_low_freq: float = 1.0
    rope_high_freq: float = 4.0
    rope_original: int = 8192

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "block_size", "n_kv_head", "n_inner", "rope_original"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be at least 1", "give a positive integer")
            most = MOST_LAYERS if key == "n_layer" else MOST
            require(value is None or value <= most, key, value, f"is more than {most:,}", "give a smaller one")
        for key, choices in CHOICES.items():
            value = getattr(self, key)
            require(value in choices, key, value, "no such option", f"choose one of {', '.join(choices)}")
        heads = [h for h in range(1, min(self.n_embd, 64) + 1) if self.n_embd % h == 0]
        why, todo = f"does not divide n_embd={self.n_embd}", f"choose one of {', '.join(map(str, heads))}"
        require(self.n_embd % self.n_head == 0, "n_head", self.n_head, why, todo)
        groups = [h for h in range(1, min(self.n_head, 64) + 1) if self.n_head % h == 0]
        why, todo = f"does not divide n_head={self.n_head}", f"choose one of {', '.join(map(str, groups))}"
        require(self.n_head % self.kv_heads == 0, "n_kv_head", self.n_kv_head, why, todo)
        odd = self.positions == "rope" and self.head_dim % 2
        require(not odd, "n_head", self.n_head, f"leaves heads of odd width {self.head_dim}", "rope turns pairs")
        require(self.vocab_size >= 0, "vocab_size", self.vocab_size, "is negative", "0 takes the tokenizer's")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "is not in [0, 1)", "0.0 turns it off")
        require(self.logit_softcap >= 0, "logit_softcap", self.logit_softcap, "is negative", "0.0 turns it off")
        for key in ("norm_eps", "rope_base", "rope_factor"):
            value = getattr(self, key)
            require(value > 0, key, value, "is not above 0", f"{getattr(type(self), key):g} is usual")
        require(self.rope_low_freq < self.rope_high_freq, "rope_low_freq", self.rope_low_freq, "is not the lower", "1")

    @property
    def kv_heads(self) -> int:
        """The number of key-value heads."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def head_dim(self) -> int:
        """The width of a head."""
        return self.n_embd // self.n_head

    @property
    def reads_beyond(self) -> bool:
        """Tell whether the model reads more than block_size tokens at once: learned positions end there."""
        return self.positions != "learned"

    @property
    def rope_scaling(self) -> RopeScaling | None:
        """The scaling of rotary positions; None where there is none."""
        if self.rope_factor == 1:
            return None
        return RopeScaling(self.rope_factor, self.rope_low_freq, self.rope_high_freq, self.rope_original)
