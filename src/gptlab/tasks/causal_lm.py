"""Define causal language modelling: predict each token from those before it (Jurafsky & Martin sec. 10.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gptlab.data.config import ROWS, TEXT
from gptlab.errors import UserError
from gptlab.metrics import Score
from gptlab.registry import option
from gptlab.tasks.base import Figures, Reading, Sums

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gptlab.data.batches.batch import Batch
    from gptlab.decoding.decoders import Decoder
    from gptlab.tasks.inputs import HeldOut
    from gptlab.tokenizers import Tokenizer

SAMPLE_TOKENS = 64  # of a sample drawn in training


@option("task", "causal_lm")
@dataclass
class CausalLM:
    """Causal language modelling: each token of a text is predicted from those before it."""

    @property
    def better(self) -> str:
        """The metric that ranks runs: their loss on held-out text."""
        return "val/loss"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss in training and on held-out text, and the metrics that follow from the latter."""
        return ("train/loss", "val/loss", "val/perplexity", "val/bits_per_byte")

    @property
    def predicts_tokens(self) -> bool:
        """Always true: the next token is what this task predicts."""
        return True

    @property
    def learns_from(self) -> tuple[str, ...]:
        """Text in windows, and rows of a user's own data module."""
        return TEXT, ROWS

    def data_module(self, corpus: Any, data: Any, block_size: int, seed: int) -> Any:
        """Return windows of the corpus as batches: ids x, and the ids one position further on, y."""
        from gptlab.data.batches.datamodule import TextDataModule

        return TextDataModule(corpus, data, block_size, seed)

    def held_out(self, tokens: Any, block_size: int, eot: int, by_documents: bool) -> HeldOut:
        """Return windows that predict every token once."""
        from gptlab.data.batches.windows import held_out

        return held_out(tokens, block_size, eot, by_documents)

    def head(self, gpt: Any) -> nn.Module:
        """Return the model itself, which has the language modelling head."""
        model: nn.Module = gpt
        return model

    def losses(self, gpt: Any, x: Tensor, y: Tensor, reading: Reading) -> Figures:
        """Compute the cross-entropy at each target, (B, T), in nats (J&M eq. 10.5)."""
        from gptlab.model.gpt import read_by_document
        from gptlab.tasks.cross_entropy import chunked_cross_entropy, cross_entropy

        if reading.chunked:
            return {"loss": chunked_cross_entropy(gpt, read_by_document(gpt.hidden, x, reading.separator), y)}
        logits = read_by_document(gpt, x, reading.separator).float()
        return {"loss": cross_entropy(logits, y, reduction="none").view_as(y)}

    def measure(self, figures: Figures, batch: Batch) -> Sums:
        """Sum nats and targets at each position of the window, (T,)."""
        from gptlab.data.batches.batch import IGNORE

        return {"nats": figures["loss"].sum(0), "targets": (batch.y != IGNORE).sum(0)}

    def scores(self, sums: Mapping[str, Any], n_bytes: float | None) -> dict[str, float]:
        """Return the mean loss, the perplexity, and, if the length of the text is known, bits per byte."""
        nats, targets = (_total(sums[name]) for name in ("nats", "targets"))
        score = Score(nats, int(targets), n_bytes or 0)
        found = {"loss": score.loss, "perplexity": score.perplexity}
        return found | ({"bits_per_byte": score.bits_per_byte} if n_bytes else {})

    def curves(self, sums: Sums) -> dict[str, Tensor]:
        """Return the mean loss at each position, (T,), which shows how much the context helps."""
        return {"loss_by_position": sums["nats"] / sums["targets"]}

    def samples(
        self, gpt: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], decoder: Decoder, seed: int
    ) -> list[str]:
        """Draw a continuation of each prompt."""
        return [continuation(gpt, tokenizer, prompt, decoder, seed) for prompt in prompts]


def continuation(
    gpt: Any,
    tokenizer: Tokenizer,
    prompt: str,
    decoder: Decoder,
    seed: int,
    max_new_tokens: int = SAMPLE_TOKENS,
    ids: Sequence[int] | None = None,
    ends: Sequence[int] = (),
) -> str:
    """Return the new text, or, if the model has diverged, a note in its place: that does not stop a run.

    `ids` are what the model reads, if not those of the prompt itself, and `ends` what ends the text.
    """
    from gptlab.decoding.context import Limits
    from gptlab.decoding.generate import continue_ids, draw_key
    from gptlab.decoding.texts import decoded_after

    limits = Limits(max_new_tokens, gpt.config.block_size, ends or tokenizer.ends, tokenizer.n_vocab)
    try:
        before = [*tokenizer.start, *tokenizer.encode(prompt)] if ids is None else ids
        found = continue_ids(gpt, before, decoder, limits, draw_key(seed, prompt, 0))
        return decoded_after(tokenizer, before, found)
    except UserError as error:
        return f" ({error.why})"


def _total(figure: Any) -> float:
    return float(figure.sum()) if hasattr(figure, "sum") else float(figure)
