import math

import pytest
import torch

from gptlab.data.batches.batch import IGNORE
from gptlab.metrics import Score
from gptlab.tasks.cross_entropy import cross_entropy

# Raschka, Build a Large Language Model (From Scratch), sec. 5.1.2
PROBS = [[7.4541e-05, 3.1061e-05, 1.1563e-05], [1.0337e-05, 5.6776e-05, 4.7559e-06]]


def test_the_book_s_loss() -> None:
    y = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])
    logits = torch.full((2, 3, 50257), 0.0, dtype=torch.float64)
    for b in range(2):
        for t in range(3):
            p = PROBS[b][t]
            logits[b, t] = math.log((1 - p) / 50256)  # the rest of the mass, evenly
            logits[b, t, y[b, t]] = math.log(p)
    chosen = logits.log_softmax(-1).gather(-1, y[..., None]).flatten()
    assert chosen.tolist() == pytest.approx([-9.5042, -10.3796, -11.3677, -11.4798, -9.7764, -12.2561], abs=1e-4)
    assert logits.flatten(0, 1).shape == (6, 50257)
    loss = cross_entropy(logits, y).item()
    assert loss == pytest.approx(10.7940, abs=1e-4)
    assert Score(6 * loss, 6, 1).perplexity == pytest.approx(48725.8, rel=1e-4)
    assert cross_entropy(logits, y, reduction="sum").item() == pytest.approx(6 * loss)


def test_a_uniform_model() -> None:
    loss = cross_entropy(torch.zeros(1, 4, 50257, dtype=torch.float64), torch.tensor([[0, 1, 2, 3]])).item()
    assert loss == pytest.approx(10.8249, abs=1e-4)
    assert Score(loss, 1, 1).perplexity == pytest.approx(50257)


def test_a_certain_and_right_model() -> None:
    y = torch.tensor([[2, 0]])
    logits = torch.full((1, 2, 3), -1e9).scatter(-1, y[..., None], 0.0)
    assert cross_entropy(logits, y).item() == 0
    assert Score(0.0, 2, 2).perplexity == 1


def test_padding_counts_nothing() -> None:
    logits = torch.randn(1, 3, 5)
    y = torch.tensor([[4, IGNORE, 1]])
    expected = -(logits.log_softmax(-1)[0, 0, 4] + logits.log_softmax(-1)[0, 2, 1])
    assert cross_entropy(logits, y, reduction="sum").item() == pytest.approx(expected.item())
    assert cross_entropy(logits, y).item() == pytest.approx(expected.item() / 2)


def test_bits_per_byte() -> None:
    # 3 tokens of ln 4 nats each are 6 bits; they spell 12 bytes
    assert Score(3 * math.log(4), 3, 12).bits_per_byte == pytest.approx(0.5)


def test_a_hopeless_model_is_infinitely_perplexed() -> None:
    assert Score(1e6, 1, 1).perplexity == math.inf
