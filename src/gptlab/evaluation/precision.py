"""Choose the numbers that a trained model computes with."""

from typing import Any

from gptlab.errors import require, require_choice

PRECISIONS = ("32-true", "bf16-true", "int8")


def require_precision(precision: str) -> None:
    """Raise UserError if `precision` is none of PRECISIONS."""
    require_choice("precision", precision, PRECISIONS)


def in_precision(model: Any, precision: str, fast: bool) -> Any:
    """Return the model on the GPU, if there is one, and in a precision; it is changed in place.

    `fast` lays its weights out for inference, which changes the last digits. Raises UserError where there is
    no int8.
    """
    import torch

    from gptlab.decoding.int8 import is_offered, pack_int8
    from gptlab.decoding.onednn import pack
    from gptlab.model.config import GPTConfig

    on_gpu = torch.cuda.is_available()
    model = model.to("cuda" if on_gpu else "cpu", torch.bfloat16 if precision == "bf16-true" else torch.float32)
    is_ours = type(model.config) is GPTConfig  # another model may do more with a layer than call it
    if precision == "int8":
        require(not on_gpu, "precision", precision, "is for a CPU, and there is a GPU", "choose bf16-true")
        require(is_offered(), "precision", precision, "this PyTorch has no layers of int8", "choose bf16-true")
        require(is_ours, "precision", precision, "the model is of another package", "choose bf16-true")
        pack_int8(model)
    elif fast and is_ours:
        pack(model)
    return model


def weight_bytes(model: Any) -> int:
    """Return the bytes of a model's weights as they are in memory, those that layers share counted once."""
    from gptlab.decoding.int8 import Int8Linear

    packed = sum(module.nbytes for module in model.modules() if isinstance(module, Int8Linear))
    return packed + sum(weight.nbytes for weight in set(model.parameters()))
