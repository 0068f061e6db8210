"""The dial that sets a model's size, and what follows from it."""

import pytest

from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.dial import Dial
from gptlab.runs.config_file import record


def test_the_depth_sets_layers_heads_and_width() -> None:
    assert Dial().shape() == compose("train", ["model=nano"]).model
    small = Dial(depth=12, aspect=64, block_size=1024, vocab_size=50257)
    assert small.shape() == GPTConfig()  # GPT-2 small
    assert Dial(depth=3, n_head=6, n_embd=96, feed_forward="relu2").shape() == GPTConfig(
        3, 6, 96, 128, 0, feed_forward="relu2"
    )
    with pytest.raises(UserError, match="depth=0: must be at least 1"):
        Dial(depth=0)


def test_a_run_has_the_values_and_no_dial() -> None:
    config = compose("train", ["experiment=ladder", "model.depth=12"])
    assert type(config.model) is GPTConfig
    assert (config.model.n_layer, config.model.n_head, config.model.n_embd) == (12, 12, 384)
    assert config.optimizer.lr == pytest.approx(6e-4 * 2**0.65)  # half the width of GPT-2 small
    assert (config.data.batch_size, config.optimizer.weight_decay) == (12, pytest.approx(0.2 / 12))
    assert config.budget.fixed() == {"tokens_per_param": 20}
    assert (record(config)["parts"]["model"], config.preset) == ("gpt", "dial-12")


def test_each_value_can_be_given() -> None:
    given = ["model.n_embd=64", "optimizer.lr=0.1", "data.batch_size=3", "optimizer.weight_decay=0"]
    config = compose("train", ["experiment=ladder", "model.depth=2", *given])
    assert (config.model.n_layer, config.model.n_embd, config.data.batch_size) == (2, 64, 3)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (0.1, 0)


@pytest.mark.parametrize(("depth", "batch_size"), [(1, 4), (2, 8), (8, 8), (9, 9)])
def test_batches_are_small_for_small_models(depth: int, batch_size: int) -> None:
    assert compose("train", ["experiment=ladder", f"model.depth={depth}"]).data.batch_size == batch_size
