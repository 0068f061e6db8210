"""A task: what is learned, and how well."""

from dataclasses import dataclass
from typing import Any

import gptlab
from gptlab.tasks.causal_lm import CausalLM


@gptlab.option("task", "smoothed")
@dataclass
class Smoothed(CausalLM):
    """Predict the next token with label smoothing (Szegedy et al. 2016): all tokens have a share of the target."""

    share: float = 0.1

    def losses(self, gpt: Any, x: Any, y: Any, reading: Any) -> dict[str, Any]:
        """Return the smoothed loss of each target, (B, T), in nats; held-out text is scored without smoothing."""
        from gptlab.data.batches.batch import IGNORE
        from gptlab.model.gpt import read_by_document

        plain = super().losses(gpt, x, y, reading)["loss"]
        if not gpt.training:
            return {"loss": plain}
        every = -read_by_document(gpt, x, reading.separator).float().log_softmax(-1).mean(-1)
        return {"loss": (1 - self.share) * plain + self.share * every.masked_fill(y == IGNORE, 0.0)}
