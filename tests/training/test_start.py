from collections.abc import Callable

import pytest

from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


@pytest.mark.parametrize("size", [256, 385])
def test_a_vocabulary_that_is_too_small_or_no_padding_is_refused(size: int, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=rf"^model.vocab_size={size}: .*257 tokens; leave it out, or pad: 320"):
        train(tiny(f"model.vocab_size={size}"))
