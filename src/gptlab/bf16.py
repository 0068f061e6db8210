"""Tell whether this processor computes in bf16, or torch emulates it, which can take many times as long as fp32."""

from collections.abc import Mapping
from typing import Any

import torch

INSTRUCTIONS = {  # for products in bf16, by architecture
    "x86_64": ("avx512_bf16", "amx_bf16"),
    "arm64": ("bf16", "sve_bf16"),
}


def has_instructions() -> bool | None:
    """Return whether this processor has instructions for bf16; None if torch does not tell."""
    told = capabilities()
    known = _known(told)
    return any(told.get(name) for name in known) if known else None


def lacking_instructions() -> tuple[str, ...]:
    """Return the instructions for bf16 of this kind of processor, if it is known to have none of them; else ()."""
    return _known(capabilities()) if has_instructions() is False else ()


def capabilities() -> Mapping[str, Any]:
    """Return what torch tells of this processor's instructions, by name; nothing where it does not tell."""
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not have it
    return found


def _known(told: Mapping[str, Any]) -> tuple[str, ...]:
    return next((names for names in INSTRUCTIONS.values() if any(name in told for name in names)), ())
