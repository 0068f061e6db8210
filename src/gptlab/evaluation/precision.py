"""Choose the numbers that a trained model computes with."""

from typing import Any

from gptlab.errors import require

PRECISIONS = ("32-true", "bf16-true", "int8")


def in_precision(model: Any, precision: str, fast: bool, device: str | None = None) -> Any:
    """Return a model in eval mode, on a device (None: the GPU, if there is one) and in a precision, changed in place.

    `fast` lays its weights out for inference, which changes the last digits. Raises UserError where there is
    no int8.
    """
    import torch

    from gptlab.decoding.int8 import pack_int8
    from gptlab.decoding.onednn import pack

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device, torch.bfloat16 if precision == "bf16-true" else torch.float32).eval()
    if precision == "int8":
        why = lacks_int8(model, device)
        require(why is None, "precision", precision, why or "", "choose bf16-true")
        pack_int8(model)
    elif fast and _is_ours(model):
        pack(model)
    return model


def lacks_int8(model: Any, device: str) -> str | None:
    """Return why a model cannot have layers of int8; None if it can."""
    from gptlab.decoding.int8 import is_offered

    if device != "cpu":
        return "is for a CPU, and there is a GPU"
    if not is_offered():
        return "this PyTorch has no layers of int8"
    return None if _is_ours(model) else "the model is of another package"


def _is_ours(model: Any) -> bool:
    """Return whether a layer is only called: another model may do more with it."""
    from gptlab.model.config import GPTConfig

    return type(model.config) is GPTConfig


def weight_bytes(model: Any) -> int:
    """Return the bytes of a model's weights as they are in memory, those that layers share counted once."""
    from gptlab.decoding.int8 import Int8Linear

    packed = sum(module.nbytes for module in model.modules() if isinstance(module, Int8Linear))
    return packed + sum(weight.nbytes for weight in model.parameters())
