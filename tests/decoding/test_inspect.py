import math

import pytest
import torch

from gptlab.decoding.decoders import Sample, TopK
from gptlab.decoding.generate import Step
from gptlab.decoding.inspect import entropy, inspect, rank

# Raschka's nine words: closer every effort forward inches moves pizza toward you (sec. 5.3)
BOOK = torch.tensor([4.51, 0.89, -1.90, 6.75, 1.63, -1.62, -1.89, 6.28, 1.79])


def test_the_book_s_top_3_explained() -> None:
    decoder = TopK(k=3)
    probs = decoder(BOOK[None])[0]
    found = inspect(Step(0, 7, math.log(0.35), BOOK, BOOK, probs), decoder, how_many=2)
    assert (found["token"], found["rank"], found["kept"]) == (7, 2, 3)
    forward, toward = found["alternatives"]
    assert (forward["token"], toward["token"]) == (3, 7)
    assert forward["final"] == pytest.approx(0.5775, abs=1e-4) and toward["final"] == pytest.approx(0.3610, abs=1e-4)
    assert forward["raw"] == forward["tempered"] == pytest.approx(float(BOOK.softmax(-1)[3]))


def test_a_chosen_token_that_is_not_among_the_best_is_shown_too() -> None:
    step = Step(0, 6, -9.0, BOOK, BOOK, BOOK.softmax(-1))
    found = inspect(step, Sample(), how_many=2)
    assert [other["token"] for other in found["alternatives"]] == [3, 7, 6] and found["rank"] == 8


def test_temperature_and_logits_processors_show_in_the_tempered_column() -> None:
    processed = BOOK.clone()
    processed[3] = -torch.inf
    step = Step(0, 7, -1.0, BOOK, processed, Sample(0.1)(processed[None])[0])
    first, second = inspect(step, Sample(0.1), how_many=2)["alternatives"]
    assert first["raw"] > 0.5 and first["tempered"] == first["final"] == 0
    assert second["tempered"] == pytest.approx(float((processed / 0.1).softmax(-1)[7]))


def test_rank_and_entropy_by_hand() -> None:
    assert [rank(torch.tensor([0.2, 0.5, 0.2, 0.1, 0.0]), i) for i in range(5)] == [2, 1, 3, 4, 5]
    assert entropy(torch.tensor([0.5, 0.25, 0.25, 0.0])) == pytest.approx(1.5 * math.log(2))
