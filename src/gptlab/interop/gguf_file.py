"""Write a run as one GGUF file, which llama.cpp and what is built on it run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import UserError, require
from gptlab.files import new_file
from gptlab.interop.exporting import loaded
from gptlab.interop.gguf_tokenizer import tokenizer_fields
from gptlab.interop.names import config_to, weights_of
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_weights
from gptlab.model.positions import slowed
from gptlab.runs.run_dir import RunDir

KINDS = ("gpt2", "llama")  # architectures of llama.cpp, named as the families are
FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}  # general.file_type
MOST_F16 = 65504.0


def export_gguf(run: RunDir, out: Path, dtype: str, head: Callable[[GPT], Any] = lambda gpt: gpt) -> dict[str, Any]:
    """Write model and tokenizer of a run into the new file `out`, whole or not at all.

    Matrices are of `dtype`, f32, f16 or bf16; vectors and the position embedding are f32. Returns the architecture and
    the number of parameters; raises UserError if llama.cpp has no such model or tokenizer, or `gguf` is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("format", "gguf", f"needs {error.name}", "pip install 'gptlab[gguf]'") from error
    gpt, tokenizer = loaded(run, head)
    config = GPTConfig(**vars(gpt.config))
    hf = architecture(config, run.config().get("model_type"))
    kind, name = hf["model_type"], run.path.absolute().name
    fields = {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[dtype],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"{kind}.{key}": value for key, value in shape(kind, config).items()},
        **tokenizer_fields(tokenizer, config.vocab_size),
    }
    names = gguf.get_tensor_name_map(
        {"gpt2": gguf.MODEL_ARCH.GPT2, "llama": gguf.MODEL_ARCH.LLAMA}[kind], config.n_layer
    )
    tensors = frequency_factors(config)
    for theirs, tensor in weights_of(gpt, hf).items():
        tensors[str(names.get_name(theirs, try_suffixes=(".weight", ".bias")))] = as_llama_cpp(theirs, tensor, config)
    with new_file(out) as path:
        writer = gguf.GGUFWriter(path, kind)
        for key, value in fields.items():
            add: dict[type, Any] = {
                bool: writer.add_bool,
                int: writer.add_uint32,
                float: writer.add_float32,
                str: writer.add_string,
            }
            add.get(type(value), writer.add_array)(key, value)
        for key, tensor in tensors.items():
            _add_tensor(writer, key, tensor, dtype, gguf)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return {"architecture": kind, "parameters": num_weights(gpt)}


def architecture(config: GPTConfig, prefer: Any) -> dict[str, Any]:
    """Return the config.json of the family that llama.cpp computes this model as; raises UserError if there is none.

    Its GPT-2 has no activation but the approximated GELU; its Llama rotates whole heads, and knows two scalings.
    """
    hf = config_to(config, prefer, KINDS, "llama.cpp")
    todo = "llama.cpp has no such model"
    if hf["model_type"] == "gpt2":
        known = config.feed_forward == "gelu"
        require(known, "model.feed_forward", config.feed_forward, todo, "a gpt2 of llama.cpp has gelu")
    else:
        share = config.rope_fraction
        require(share == 1, "model.rope_fraction", share, todo, "a llama of llama.cpp has 1.0")
        known = config.rope_scaling is None or config.rope_type in ("linear", "llama3")
        require(known, "model.rope_type", config.rope_type, todo, "a llama of llama.cpp has linear or llama3")
    return hf


def shape(kind: str, config: GPTConfig) -> dict[str, Any]:
    """Return the fields of an architecture, without its name before them."""
    found: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": 4 * config.n_embd if config.n_inner is None else config.n_inner,
        "attention.head_count": config.n_head,
    }
    if kind == "gpt2":
        return {**found, "attention.layer_norm_epsilon": config.norm_eps}
    found |= {
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_base,
    }
    if config.rope_scaling and config.rope_type == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    return found


def frequency_factors(config: GPTConfig) -> dict[str, Tensor]:
    """Return what llama.cpp divides the frequency of each pair by, (D/2,), where Llama 3's scaling is used."""
    scaling = config.rope_scaling
    if scaling is None or config.rope_type != "llama3":
        return {}
    width = config.head_dim
    frequency = config.rope_base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    factor = slowed(frequency, scaling, width, config.rope_base, length=torch.tensor(0))  # the same at each length
    return {"rope_freqs.weight": 1 / torch.as_tensor(factor)}


def as_llama_cpp(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    """Return a tensor of a family as llama.cpp has it: linear layers (out, in), and other pairs in rotated heads."""
    if ".c_" in name and tensor.dim() == 2:  # GPT-2's are (in, out)
        return tensor.T
    if ".q_proj." in name or ".k_proj." in name:
        return permuted(tensor, config.n_head if ".q_proj." in name else config.kv_heads)
    return tensor


def permuted(rows: Tensor, heads: int) -> Tensor:
    """Return the rows of queries or keys for rotations of neighbours: llama.cpp turns components 2i and 2i + 1.

    We turn i and i + D/2 of each head together, as transformers does: row i goes to 2i, row i + D/2 to 2i + 1.
    """
    halves = rows.unflatten(0, (heads, 2, -1))  # type: ignore[no-untyped-call]
    found: Tensor = halves.transpose(1, 2).flatten(0, 2)
    return found


def _add_tensor(writer: Any, name: str, tensor: Tensor, dtype: str, gguf: Any) -> None:
    """Give a tensor to the writer in its number format; raises UserError where that does not hold its numbers."""
    tensor = tensor.detach().to(torch.float32).contiguous()
    if tensor.dim() < 2 or name == "position_embd.weight" or dtype == "f32":
        writer.add_tensor(name, tensor.numpy())
    elif dtype == "f16":
        largest = float(tensor.abs().max())
        why = f"its {name} has a weight of {largest:.3g}, and f16 ends at {MOST_F16:.0f}"
        require(largest <= MOST_F16, "dtype", dtype, why, "dtype=bf16 and dtype=f32 hold it")
        writer.add_tensor(name, tensor.to(torch.float16).numpy())
    else:
        rows = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
