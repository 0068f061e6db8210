"""Tell whether this processor computes in bf16, or torch emulates it, which can take many times as long as fp32."""

from collections.abc import Mapping
from typing import Any

import torch

INSTRUCTIONS = {  # for products in bf16, by architecture
    "x86_64": ("avx512_bf16", "amx_bf16"),
    "arm64": ("bf16", "sve_bf16"),
}


def lacking_instructions() -> tuple[str, ...]:
    """Return the instructions for bf16 of this kind of processor, if it has none of them; else ().

    Of processors about which torch does not tell nothing is known, and () is returned.
    """
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not have it
    known = next((names for names in INSTRUCTIONS.values() if any(name in told for name in names)), ())
    return () if any(told.get(name) for name in known) else known
