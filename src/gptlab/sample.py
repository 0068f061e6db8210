"""The verb `sample`: a run directory and a prompt in, text out."""

from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from gptlab.config import SampleConfig
from gptlab.decoding.generate import generate
from gptlab.errors import require
from gptlab.rundir import RunDir


def sample(config: SampleConfig) -> dict[str, Any]:
    """Print continuations of the prompt; returns {"samples": [{"prompt", "text", "ids"}]}, the new text and ids."""
    run = RunDir.find(config.run)
    prompt = config.prompt or next(iter(run.sample_prompts()), "")
    require(bool(prompt), "prompt", "null", "the run has no sample prompt", 'give one, e.g. prompt="Once upon"')
    gpt, tokenizer = run.load()
    gpt = gpt.to("cuda" if torch.cuda.is_available() else "cpu")
    ids = tokenizer.encode(prompt)
    console = Console()
    samples = []
    for number in range(config.num_samples):
        seed = (config.seed, 0, number)
        new = list(
            generate(
                gpt,
                ids,
                config.decoder,
                config.max_new_tokens,
                gpt.config.block_size,
                seed,
                stop=tokenizer.eot,
                n_vocab=tokenizer.n_vocab,
            )
        )
        text = tokenizer.decode(new)
        samples.append({"prompt": prompt, "text": text, "ids": new})
        console.print(Text(prompt, style="bold") + Text(text, style="not bold"), soft_wrap=True)
        if number + 1 < config.num_samples:
            console.rule(style="dim")
    return {"samples": samples}
