"""Continue the same prompts at every validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy

from gptlab.decoding.context import Limits
from gptlab.decoding.decoders import Decoder
from gptlab.decoding.generate import continue_ids, draw_key
from gptlab.errors import UserError
from gptlab.tokenizers import Tokenizer
from gptlab.training.module import GPTModule


class Samples(Callback):
    """Continue the same prompts at every validation, into samples.md and TensorBoard's text tab."""

    def __init__(
        self, run_dir: Path, prompts: Sequence[str], tokenizer: Tokenizer, decoder: Decoder, seed: int
    ) -> None:
        self.path, self.prompts, self.seed = run_dir / "samples.md", prompts, seed
        self.tokenizer, self.decoder = tokenizer, decoder

    def continue_(self, gpt: Any, decoder: Decoder, number: int, max_new_tokens: int = 64) -> str:
        """What the model makes of prompt `number`."""
        ids, tokenizer = self.tokenizer.encode(self.prompts[number]), self.tokenizer
        limits = Limits(max_new_tokens, gpt.config.block_size, tokenizer.eot, tokenizer.n_vocab)
        try:
            return tokenizer.decode(
                continue_ids(gpt, ids, decoder, limits, draw_key(self.seed, self.prompts[number], 0))
            )
        except UserError as error:  # a model that has diverged does not stop its run
            return f" ({error.why})"

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        together = isinstance(trainer.strategy, ModelParallelStrategy)  # a sharded model is run by all ranks
        if not (trainer.is_global_zero or together) or not self.prompts:
            return
        assert isinstance(pl_module, GPTModule)
        step = trainer.global_step
        texts = [self.continue_(pl_module.gpt, self.decoder, i) for i in range(len(self.prompts))]
        if not trainer.is_global_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"## step {step}\n\n")
            for prompt, text in zip(self.prompts, texts, strict=True):
                file.write(f"{_as_code(prompt + text)}\n\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for i, (prompt, text) in enumerate(zip(self.prompts, texts, strict=True)):
                    logger.experiment.add_text(f"samples/{i}", _as_code(prompt + text), step)


def _as_code(text: str) -> str:
    """Markdown that shows any text as it is, line by line."""
    return "\n".join("    " + line for line in text.splitlines())
