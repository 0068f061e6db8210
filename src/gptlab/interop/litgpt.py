"""Read the checkpoint folders of LitGPT: `lit_model.pth`, `model_config.yaml` and the files of a tokenizer."""

import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gptlab.errors import UserError, reason, require
from gptlab.files import read_bounded, read_json
from gptlab.interop.family import Fields, Naming, full_every
from gptlab.interop.places import LITGPT_CONFIG
from gptlab.interop.state_dict import Checkpoint, Saved, flag, whole
from gptlab.interop.weight_files import StateDict, tensors_of
from gptlab.model.config import GPTConfig
from gptlab.tokenizers import Tokenizer
from gptlab.tokenizers.base import panics
from gptlab.tokenizers.directory import read_tokenizer

MOST_CONFIG, MOST_JSON = 1 << 20, 1 << 28  # bytes
NAMES = {
    "wte": ("wte",),
    "ln_f": ("ln_f",),
    "ln_1": ("norm_1",),
    "ln_2": ("norm_2",),
    "post_1": ("post_attention_norm",),
    "post_2": ("post_mlp_norm",),
    "attn.qkv": ("attn.qkv",),
    "attn.proj": ("attn.proj",),
    "attn.q_norm": ("attn.norm_q",),
    "attn.k_norm": ("attn.norm_k",),
    "mlp.proj": ("mlp.proj",),
}
GATED_NAMES = {**NAMES, "mlp.gate": ("mlp.fc_1",), "mlp.fc": ("mlp.fc_2",)}
UNGATED_NAMES = {**NAMES, "mlp.fc": ("mlp.fc",)}
MLPS = {("GptNeoxMLP", "none"): "gelu_exact", ("GptNeoxMLP", "tanh"): "gelu", ("GemmaMLP", "tanh"): "geglu"}
NORMS_AT = {  # norm_1, norm_2, post_attention_norm, post_mlp_norm
    (True, True, False, False): "before",
    (False, False, True, True): "after",
    (True, True, True, True): "both",
}
OF_EXPERTS = {  # fields that only a mixture of experts reads
    *("n_expert", "n_expert_per_token", "moe_intermediate_size", "n_shared_expert", "n_expert_groups", "n_topk_groups"),
    *("n_topk_scores_per_group", "first_k_dense_replace", "routed_scaling_factor", "norm_topk_prob"),
}
LLAMA3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len"}
EXACTLY = "it cannot be imported exactly"


def is_one(saved: Saved) -> bool:
    """Tell a checkpoint of LitGPT by the names of its tensors."""
    return saved.names(".attn.qkv.", ".attn.attn.")


def read(saved: Saved) -> Checkpoint:
    """Return the model and the tokenizer of a folder; raises UserError where they cannot be read exactly."""
    folder = saved.path.parent
    declared = _declared(folder / LITGPT_CONFIG)
    fields = Fields({**declared, "model_type": "LitGPT"})
    try:
        config = config_of(fields)
    except KeyError as error:
        raise UserError("checkpoint", folder / LITGPT_CONFIG, f"lacks {error}", "take a complete one") from error
    fields.finish()
    tensors = _as_now(tensors_of(saved.state, saved.path, "checkpoint"), config)
    if config.norm == "layer" and not declared.get("bias", True):
        tensors |= _zero_biases(tensors)
    names = GATED_NAMES if config.feed_forward in ("swiglu", "geglu") else UNGATED_NAMES
    naming = Naming("LitGPT", names=names, root="transformer.", stack="h")
    tokenizer, said = _tokenizer(folder, config.vocab_size)
    return Checkpoint(config, StateDict(saved.path, tensors, naming, LITGPT_CONFIG), tokenizer, said)


def config_of(f: Fields) -> GPTConfig:
    """Return our config for the fields of a model_config.yaml; raises UserError for what cannot be expressed."""
    f.expect("latent_attention", None)
    f.expect("rope_interleave", False)
    width, heads, bias = whole(f["n_embd"], "n_embd"), whole(f["n_head"], "n_head"), flag(f.get("bias", True), "bias")
    head_size, norm = f.get("head_size"), _norm(f)
    size, multiple, padded = f.get("vocab_size", 50254), f.get("padding_multiple", 512), f.get("padded_vocab_size")
    scalar, n_layer = f.get("attention_scores_scalar"), whole(f["n_layer"], "n_layer")
    qk_norm = flag(f.get("norm_qk", False), "norm_qk")
    why, todo = f"is not known here with norm_class_name={f.get('norm_class_name')}", EXACTLY
    require(not qk_norm or norm in ("rms", "zero_centered_rms"), "norm_qk", qk_norm, why, todo)
    over = f.choose("norm_qk_type", "default", {"default": "head", "olmo2": "all"})
    eps = float(f.get("norm_eps", 1e-5))
    of_heads: dict[str, Any] = {"qk_norm": True, "qk_norm_over": over, "qk_norm_eps": eps} if qk_norm else {}
    return GPTConfig(
        n_layer=n_layer,
        n_head=heads,
        n_embd=width,
        n_kv_head=f.get("n_query_groups"),
        head_size=None if head_size is None or head_size * heads == width else whole(head_size, "head_size"),
        block_size=whole(f.get("block_size", 4096), "block_size"),
        vocab_size=whole(-(-size // multiple) * multiple if padded is None else padded, "padded_vocab_size"),
        n_inner=f.get("intermediate_size"),
        positions="rope",
        norm=norm,
        norm_eps=eps,
        norm_at=_norm_at(f),
        residual=_residual(f),
        feed_forward=_feed_forward(f),
        bias=bias or norm == "layer",  # torch's LayerNorm has one in any case
        qkv_bias=flag(f.get("attn_bias", False), "attn_bias") or bias,
        proj_bias=bias,
        **of_heads,
        attention_scale=None if scalar is None else scalar**-0.5,
        attention_softcap=float(f.get("attention_logit_softcapping") or 0),
        logit_softcap=float(f.get("final_logit_softcapping") or 0),
        embedding_scale=width**0.5 if flag(f.get("scale_embeddings", False), "scale_embeddings") else 1.0,
        head_bias=flag(f.get("lm_head_bias", False), "lm_head_bias"),
        tied=False,  # its head has weights of its own, also where they began as those of the embedding
        **_rope(f),
        **_windows(f, n_layer),
    )


def _norm(f: Fields) -> str:
    """Return our name of a norm, which LitGPT makes another one by the name of the model."""
    described = f.get("hf_config") or {}  # where it was downloaded from
    name = str(f.get("name") or described.get("name") or "")
    rms, layer = "zero_centered_rms" if "Gemma" in name else "rms", "plain_layer" if "OLMo" in name else "layer"
    return f.choose("norm_class_name", "LayerNorm", {"RMSNorm": rms, "LayerNorm": layer})


def _norm_at(f: Fields) -> str:
    """Return where the norms of a layer stand."""
    keys = ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm")
    found = tuple(flag(f.get(key, key.startswith("norm")), key) for key in keys)
    known = found in NORMS_AT
    require(known, ", ".join(keys), found, "are norms in places that are not known here", EXACTLY)
    return NORMS_AT[found[0], found[1], found[2], found[3]]


def _residual(f: Fields) -> str:
    """Return how attention and feed-forward are added."""
    parallel = flag(f.get("parallel_residual", True), "parallel_residual")
    shared = flag(f.get("shared_attention_norm", False), "shared_attention_norm")
    why = "is not known here with parallel_residual=False"
    require(parallel or not shared, "shared_attention_norm", shared, why, EXACTLY)
    return "parallel_one_norm" if shared else "parallel" if parallel else "sequential"


def _feed_forward(f: Fields) -> str:
    """Return our name of a feed-forward."""
    kind, gelu = f.get("mlp_class_name", "GptNeoxMLP"), f.get("gelu_approximate", "none")
    known = {**MLPS, ("LLaMAMLP", gelu): "swiglu"}
    given = f"{kind} with gelu_approximate={gelu}"
    todo = "it can be GptNeoxMLP, LLaMAMLP or GemmaMLP with gelu_approximate=tanh"
    require((kind, gelu) in known, "mlp_class_name", given, "is not known here", todo)
    f.known |= OF_EXPERTS
    return known[kind, gelu]


def _rope(f: Fields) -> dict[str, Any]:
    """Return our fields of rotary positions."""
    ratio, asked = f.get("rope_condense_ratio", 1), f.get("rope_adjustments")
    share = float(f.get("rotary_percentage", 0.25))
    require(0 < share <= 1, "rotary_percentage", share, "is not in (0, 1]", EXACTLY)
    base = {"rope_base": float(f.get("rope_base", 10000)), "rope_fraction": share}
    if not asked:
        return base if ratio == 1 else {**base, "rope_type": "linear", "rope_factor": float(ratio)}
    known = isinstance(asked, dict) and set(asked) in ({"factor"}, LLAMA3) and ratio == 1
    given = f"{asked} with rope_condense_ratio={ratio}"
    require(known, "rope_adjustments", given, "is not known here", "it can be factor alone, or Llama 3's")
    factor = float(asked["factor"])
    if set(asked) == {"factor"}:
        return {**base, "rope_type": "linear", "rope_factor": factor}
    low, high = float(asked["low_freq_factor"]), float(asked["high_freq_factor"])
    turns = {"rope_low_freq": low, "rope_high_freq": high, "rope_original": asked["original_max_seq_len"]}
    return {**base, "rope_type": "llama3", "rope_factor": factor, **turns}


def _windows(f: Fields, n_layer: int) -> dict[str, Any]:
    """Return our fields of sliding windows, and of the rotary positions of the layers that have one."""
    window, local = f.get("sliding_window_size"), f.get("rope_local_base_freq")
    indices = {key: f.get(key) for key in ("sliding_window_indices", "rope_indices")}
    windows, turns = ([1] * n_layer if each is None else list(each)[:n_layer] for each in indices.values())
    windows = [0] * n_layer if window is None else windows
    if local is not None:
        same = turns == windows and f.get("rope_condense_ratio", 1) == 1
        why = "are not the layers with a window, or have a rope_condense_ratio"
        require(same, "rope_indices", turns, why, EXACTLY)
    if 1 not in windows:
        return {}
    try:
        every = full_every([each == 0 for each in windows])
    except UserError as error:
        raise UserError("sliding_window_indices", windows, error.why, error.todo) from error
    found = {"window": window, "full_attention_every": every}
    return found if local is None else {**found, "rope_base_window": float(local)}


def _as_now(tensors: dict[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """Return the tensors with the names of LitGPT since 0.5.

    Before, `attn.attn` had the queries, the key and the value of each group together, one group below the other.
    """
    old, n_kv, width = re.compile(r"(.*\.attn)\.attn\.(weight|bias)"), config.kv_heads, config.head_dim
    shared = config.n_head // n_kv
    found = {}
    for name, tensor in tensors.items():
        match = old.fullmatch(name)
        if match and tensor.shape[0] == (shared + 2) * n_kv * width:
            groups = tensor.unflatten(0, (n_kv, (shared + 2) * width))  # type: ignore[no-untyped-call]
            parts = groups.split((shared * width, width, width), dim=1)
            tensor = torch.cat([part.flatten(0, 1) for part in parts])
        found[f"{match[1]}.qkv.{match[2]}" if match else name] = tensor
    return found


def _zero_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return biases of zero for the feed-forwards: LitGPT's `bias=False` leaves out these, and not those of norms."""
    layers = re.compile(r".*\.mlp\.\w+\.weight")
    found = {name: tensor for name, tensor in tensors.items() if layers.fullmatch(name) and tensor.dim() == 2}
    return {f"{name.removesuffix('weight')}bias": torch.zeros(len(tensor)) for name, tensor in found.items()}


def _declared(path: Path) -> dict[str, Any]:
    """Return the content of a model_config.yaml."""
    todo = "give LitGPT's whole folder"
    try:
        found = yaml.safe_load(read_bounded(path, MOST_CONFIG))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError("checkpoint", path, f"cannot be read ({reason(error)})", todo) from error
    named = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    require(named, "checkpoint", path, "does not hold keys with values", todo)
    return dict(found)


def _tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer, list[str]]:
    """Return the tokenizer of a folder, read as that of a Hugging Face directory."""
    path = folder / "config.json"  # that of the model that a training began with, if there was one
    try:
        declared = read_json(path, MOST_JSON) if path.exists() else {}
        with panics(folder):
            return read_tokenizer(folder, {"model_type": "LitGPT", **declared, "vocab_size": vocab_size})
    except UserError as error:
        key = "checkpoint" if error.key == "hf" else error.key
        raise UserError(key, error.value, error.why, error.todo) from error
    except Exception as error:  # tokenizers raises bare ones
        why = f"its tokenizer cannot be read ({type(error).__name__}: {reason(error)})"
        raise UserError("checkpoint", folder, why, "take a complete one") from error
