"""The families of models that can be imported and exported, by their model_type; export takes the first that fits."""

from gptlab.interop.families import (
    bloom,
    gemma,
    gpt2,
    gpt_neox,
    granite,
    llama,
    mistral,
    olmo,
    opt,
    phi,
    qwen,
    smollm3,
)
from gptlab.interop.family import Family

FILES = (gpt2, llama, mistral, qwen, smollm3, olmo, granite, gemma, phi, gpt_neox, opt, bloom)
FAMILIES: dict[str, Family] = {family.model_type: family for file in FILES for family in file.FAMILIES}
