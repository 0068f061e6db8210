"""Forward passes of nanoGPT, Raschka's GPTModel and LitGPT, written here as functions of their state dicts."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None = None, cap: float = 0.0) -> Tensor:
    """Attend causally from q (B, H, T, D) to k, v (B, H or fewer, T, D), by matrices of scores."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * scale
    if cap:
        scores = cap * torch.tanh(scores / cap)
    behind = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    hidden = (behind < 0) | (behind >= (window or len(behind)))
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


def heads(x: Tensor, size: int) -> Tensor:
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def spread(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Random weights by which mistakes would show."""
    made = torch.Generator().manual_seed(len(shapes))
    return {name: torch.randn(shape, generator=made) * 0.2 for name, shape in shapes.items()}


def nano_weights(args: dict[str, Any]) -> Weights:
    C, shapes = args["n_embd"], {}
    for i in range(args["n_layer"]):
        at = f"transformer.h.{i}."
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{at}{norm}.weight": (C,), f"{at}{norm}.bias": (C,)}
        for layer, out, inner in (
            ("attn.c_attn", 3 * C, C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", 4 * C, C),
            ("mlp.c_proj", C, 4 * C),
        ):
            shapes |= {f"{at}{layer}.weight": (out, inner), f"{at}{layer}.bias": (out,)}
    shapes |= {"transformer.wte.weight": (args["vocab_size"], C), "transformer.wpe.weight": (args["block_size"], C)}
    shapes |= {"transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,)}
    made = spread({name: shape for name, shape in shapes.items() if args["bias"] or not name.endswith(".bias")})
    return {**made, "lm_head.weight": made["transformer.wte.weight"]}


def nano_logits(w: Weights, args: dict[str, Any], idx: Tensor) -> Tensor:
    C, size = args["n_embd"], args["n_embd"] // args["n_head"]

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"transformer.{name}.weight"], w.get(f"transformer.{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (C,), w[f"transformer.{name}.weight"], w.get(f"transformer.{name}.bias"), 1e-5)

    x = w["transformer.wte.weight"][idx] + w["transformer.wpe.weight"][: idx.shape[1]]
    for i in range(args["n_layer"]):
        q, k, v = (heads(part, size) for part in linear(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)).split(C, -1))
        x = x + linear(f"h.{i}.attn.c_proj", attention(q, k, v, size**-0.5).transpose(1, 2).flatten(2))
        x = x + linear(f"h.{i}.mlp.c_proj", F.gelu(linear(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))))
    return norm("ln_f", x) @ w["lm_head.weight"].T


def raschka_weights(n_layer: int, C: int, context: int, qkv_bias: bool) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (50257, C), "pos_emb.weight": (context, C)}
    for i in range(n_layer):
        at = f"trf_blocks.{i}."
        for name in ("W_query", "W_key", "W_value", "out_proj"):
            shapes[f"{at}att.{name}.weight"] = (C, C)
            if qkv_bias or name == "out_proj":
                shapes[f"{at}att.{name}.bias"] = (C,)
        shapes |= {f"{at}ff.layers.0.weight": (4 * C, C), f"{at}ff.layers.0.bias": (4 * C,)}
        shapes |= {f"{at}ff.layers.2.weight": (C, 4 * C), f"{at}ff.layers.2.bias": (C,)}
        shapes |= {f"{at}{norm}.{kind}": (C,) for norm in ("norm1", "norm2") for kind in ("scale", "shift")}
    return spread({**shapes, "final_norm.scale": (C,), "final_norm.shift": (C,), "out_head.weight": (50257, C)})


def raschka_logits(w: Weights, n_head: int, idx: Tensor) -> Tensor:
    size = w["tok_emb.weight"].shape[1] // n_head

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1))

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return w[f"{name}.scale"] * (x - mean) / torch.sqrt(var + 1e-5) + w[f"{name}.shift"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    x = w["tok_emb.weight"][idx] + w["pos_emb.weight"][: idx.shape[1]]
    for i in range(sum(name.endswith("norm1.scale") for name in w)):
        at = f"trf_blocks.{i}."
        h = norm(f"{at}norm1", x)
        q, k, v = (heads(linear(f"{at}att.W_{name}", h), size) for name in ("query", "key", "value"))
        x = x + linear(f"{at}att.out_proj", attention(q, k, v, size**-0.5).transpose(1, 2).flatten(2))
        x = x + linear(f"{at}ff.layers.2", gelu(linear(f"{at}ff.layers.0", norm(f"{at}norm2", x))))
    return norm("final_norm", x) @ w["out_head.weight"].T


# model_config.yaml of LitGPT with all of its fields, as its dataclass has them by default but for the sizes
LIT: dict[str, Any] = {
    "name": "toy", "hf_config": {}, "block_size": 48, "n_layer": 2, "n_embd": 32, "vocab_size": 50, "padding_multiple": 64,
    "padded_vocab_size": 64, "norm_class_name": "LayerNorm", "norm_eps": 1e-5, "norm_qk": False, "norm_qk_type": "default",
    "post_attention_norm": False, "post_mlp_norm": False, "parallel_residual": True, "shared_attention_norm": False,
    "n_head": 4, "head_size": 8, "n_query_groups": 4, "attn_bias": False, "attention_scores_scalar": None,
    "sliding_window_size": None, "sliding_window_indices": None, "attention_logit_softcapping": None, "rope_base": 10000,
    "rotary_percentage": 0.25, "rope_condense_ratio": 1, "rope_adjustments": None, "rope_interleave": False,
    "intermediate_size": 128, "moe_intermediate_size": None, "bias": True, "mlp_class_name": "GptNeoxMLP",
    "gelu_approximate": "none", "n_expert": 0, "n_shared_expert": None, "n_expert_groups": None, "n_topk_groups": None,
    "n_topk_scores_per_group": None, "n_expert_per_token": 0, "first_k_dense_replace": None, "routed_scaling_factor": 1.0,
    "norm_topk_prob": False, "scale_embeddings": False, "lm_head_bias": False, "final_logit_softcapping": None,
    "norm_1": True, "norm_2": True, "latent_attention": None, "rope_local_base_freq": None, "rope_indices": None,
}  # fmt: skip
LLAMA = {**LIT, "norm_class_name": "RMSNorm", "parallel_residual": False, "bias": False, "rotary_percentage": 1.0,
         "mlp_class_name": "LLaMAMLP", "intermediate_size": 48, "n_query_groups": 2}  # fmt: skip
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 16}
GEMMA = {
    **LLAMA,
    "name": "Gemma-toy",
    "mlp_class_name": "GemmaMLP",
    "gelu_approximate": "tanh",
    "scale_embeddings": True,
}
LITGPT: dict[str, dict[str, Any]] = {
    "pythia": LIT,
    "pythia, five layers": {**LIT, "n_layer": 5, "n_embd": 48, "n_head": 6, "n_query_groups": 6, "rotary_percentage": 0.5},
    "sequential, tanh": {**LIT, "parallel_residual": False, "gelu_approximate": "tanh", "lm_head_bias": True},
    "phi": {**LIT, "shared_attention_norm": True, "gelu_approximate": "tanh", "lm_head_bias": True},
    "falcon, biases of norms alone": {**LIT, "bias": False, "shared_attention_norm": True, "n_query_groups": 1},
    "olmo": {**LLAMA, "name": "OLMo-toy", "norm_class_name": "LayerNorm"},
    "llama, grouped": LLAMA,
    "llama, legacy": {**LLAMA, "n_layer": 3, "n_head": 6, "n_query_groups": 3, "attn_bias": True},
    "llama 3": {**LLAMA, "rope_adjustments": LLAMA3, "rope_base": 500000, "bias": True},
    "condensed": {**LLAMA, "rope_condense_ratio": 4, "attention_scores_scalar": 3},
    "qwen 3, windows": {**LLAMA, "norm_qk": True, "head_size": 16, "sliding_window_size": 5, "sliding_window_indices": [1, 0]},
    "olmo 2": {**LLAMA, "name": "OLMo-2-toy", "norm_qk": True, "norm_qk_type": "olmo2", "norm_1": False, "norm_2": False,
               "post_attention_norm": True, "post_mlp_norm": True},
    "gemma 2": {**GEMMA, "post_attention_norm": True, "post_mlp_norm": True, "attention_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0},
    "gemma 3": {**GEMMA, "n_layer": 4, "sliding_window_size": 6, "sliding_window_indices": [1, 0, 1, 0],
                "rope_indices": [1, 0, 1, 0], "rope_local_base_freq": 300.0, "rope_adjustments": {"factor": 8.0}},
}  # fmt: skip


def lit_weights(c: dict[str, Any]) -> Weights:
    C, size, inner, shapes = c["n_embd"], c["head_size"], c["intermediate_size"], {}
    rows = (c["n_head"] + 2 * c["n_query_groups"]) * size

    def norm(name: str, width: int) -> None:
        if not (c["norm_class_name"] == "LayerNorm" and "OLMo" in c["name"]):
            shapes[f"{name}.weight"] = (width,)
            if c["norm_class_name"] == "LayerNorm":
                shapes[f"{name}.bias"] = (width,)

    def linear(name: str, out: int, width: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (out, width)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    for i in range(c["n_layer"]):
        at = f"transformer.h.{i}."
        there = {"norm_1": c["norm_1"], "norm_2": c["norm_2"] and not c["shared_attention_norm"]}
        there |= {key: c[key] for key in ("post_attention_norm", "post_mlp_norm")}
        for name in (name for name, is_there in there.items() if is_there):
            norm(f"{at}{name}", C)
        if c["norm_qk"]:
            both = c["norm_qk_type"] == "olmo2"
            norm(f"{at}attn.norm_q", size * (c["n_head"] if both else 1))
            norm(f"{at}attn.norm_k", size * (c["n_query_groups"] if both else 1))
        linear(f"{at}attn.qkv", rows, C, c["bias"] or c["attn_bias"])
        linear(f"{at}attn.proj", C, c["n_head"] * size, c["bias"])
        for name in ("fc",) if c["mlp_class_name"] == "GptNeoxMLP" else ("fc_1", "fc_2"):
            linear(f"{at}mlp.{name}", inner, C, c["bias"])
        linear(f"{at}mlp.proj", C, inner, c["bias"])
    shapes["transformer.wte.weight"] = (c["padded_vocab_size"], C)
    norm("transformer.ln_f", C)
    linear("lm_head", c["padded_vocab_size"], C, c["lm_head_bias"])
    return spread(shapes)


def lit_angles(c: dict[str, Any], T: int, local: bool) -> Tensor:
    """The angles of rotary positions, (T, rotated / 2)."""
    rotated, change = int(c["rotary_percentage"] * c["head_size"]), c["rope_adjustments"] or {}
    base = c["rope_local_base_freq"] if local else c["rope_base"]
    theta = base ** (-torch.arange(0, rotated, 2).double() / rotated)
    if not local and "low_freq_factor" in change:
        low, high = change["low_freq_factor"], change["high_freq_factor"]
        turns = change["original_max_seq_len"] * theta / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        theta = (1 - smooth) * theta / change["factor"] + smooth * theta
    elif not local and change:
        theta = theta / change["factor"]
    return torch.outer(torch.arange(T).double() / c["rope_condense_ratio"], theta)


def lit_logits(w: Weights, c: dict[str, Any], idx: Tensor) -> Tensor:
    C, size, eps = c["n_embd"], c["head_size"], c["norm_eps"]
    kinds = {"GptNeoxMLP": ("fc",), "LLaMAMLP": ("fc_1", "fc_2"), "GemmaMLP": ("fc_1", "fc_2")}

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        if c["norm_class_name"] == "LayerNorm":
            return F.layer_norm(x, x.shape[-1:], w.get(f"{name}.weight"), w.get(f"{name}.bias"), eps)
        weight = w[f"{name}.weight"] + ("Gemma" in c["name"])
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def turned(x: Tensor, angles: Tensor) -> Tensor:
        n = angles.shape[-1]
        a, b, rest = x[..., :n], x[..., n : 2 * n], x[..., 2 * n :]
        cos, sin = angles.cos().float(), angles.sin().float()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    def mlp(at: str, x: Tensor) -> Tensor:
        first, *second = (linear(f"{at}mlp.{name}", x) for name in kinds[c["mlp_class_name"]])
        h = F.silu(first) if c["mlp_class_name"] == "LLaMAMLP" else F.gelu(first, approximate=c["gelu_approximate"])
        return linear(f"{at}mlp.proj", h * second[0] if second else h)

    x = w["transformer.wte.weight"][idx] * (C**0.5 if c["scale_embeddings"] else 1)
    for i in range(c["n_layer"]):
        at, near = f"transformer.h.{i}.", bool((c["sliding_window_indices"] or [0] * 9)[i])
        h = norm(f"{at}norm_1", x) if c["norm_1"] else x
        q, k, v = linear(f"{at}attn.qkv", h).split([n * size for n in (c["n_head"], *[c["n_query_groups"]] * 2)], -1)
        if c["norm_qk"] and c["norm_qk_type"] == "olmo2":
            q, k = norm(f"{at}attn.norm_q", q), norm(f"{at}attn.norm_k", k)
        q, k, v = heads(q, size), heads(k, size), heads(v, size)
        if c["norm_qk"] and c["norm_qk_type"] == "default":
            q, k = norm(f"{at}attn.norm_q", q), norm(f"{at}attn.norm_k", k)
        angles = lit_angles(c, idx.shape[1], near and c["rope_local_base_freq"] is not None)
        scale = (c["attention_scores_scalar"] or size) ** -0.5
        window, cap = c["sliding_window_size"] if near else None, c["attention_logit_softcapping"] or 0.0
        mixed = attention(turned(q, angles), turned(k, angles), v, scale, window, cap)
        mixed = linear(f"{at}attn.proj", mixed.transpose(1, 2).flatten(2))
        mixed = norm(f"{at}post_attention_norm", mixed) if c["post_attention_norm"] else mixed
        into = x if c["parallel_residual"] else x + mixed
        if not c["shared_attention_norm"]:
            h = norm(f"{at}norm_2", into) if c["norm_2"] else into
        out = mlp(at, h)
        x = x + mixed + (norm(f"{at}post_mlp_norm", out) if c["post_mlp_norm"] else out)
    logits = linear("lm_head", norm("transformer.ln_f", x))
    cap = c["final_logit_softcapping"]
    return cap * torch.tanh(logits / cap) if cap else logits
