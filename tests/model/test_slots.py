"""Keys and values of texts that come and go."""

import pytest
import torch

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT

KINDS: list[dict[str, object]] = [
    {"positions": "learned"},
    {"positions": "rope", "n_kv_head": 1, "norm": "rms", "feed_forward": "swiglu", "qk_norm": True},
    {"positions": "alibi", "n_head": 4},
    {"positions": "none"},
    {"positions": "rope", "window": 3, "full_attention_every": 2, "rope_base_window": 100.0},
    {"positions": "alibi", "window": 4, "attention_softcap": 3.0},
]


def gpt(**options: object) -> GPT:
    torch.manual_seed(0)
    config = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 150, "vocab_size": 50, **options}
    model = GPT(GPTConfig(**config)).eval()  # type: ignore[arg-type]
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def ids(n: int, seed: int) -> list[int]:
    return torch.randint(50, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_rows_of_all_lengths_that_join_move_and_leave(kind: dict[str, object]) -> None:
    """Against reading each text whole, while the rows change by every way that there is."""
    model = gpt(**kind)
    slots, texts = model.new_slots(), list[list[int]]()

    def join(*lengths: int) -> None:
        new = [ids(n, 7 * n) for n in lengths]
        longest = max(lengths)
        padding = torch.tensor([longest - n for n in lengths])
        cache = model.new_cache(len(new), longest, padding if padding.any() else None)
        model(torch.tensor([[0] * (longest - len(each)) + each for each in new]), cache=cache)
        slots.put(cache, range(len(new)))
        texts.extend(new)

    def step(tokens: int = 1) -> None:
        new = [ids(tokens, len(text)) for text in texts]
        found = model(torch.tensor(new), cache=slots)[:, -1]
        for row, text in enumerate(texts):
            text += new[row]
            torch.testing.assert_close(found[row], model(torch.tensor([text]))[0, -1], atol=1e-5, rtol=1e-4)
        assert slots.lengths == [len(text) for text in texts] and slots.batch == len(texts)

    def select(*rows: int) -> None:
        slots.select(torch.tensor(rows))
        texts[:] = [list(texts[row]) for row in rows]

    join(5, 2, 9)
    step()
    join(1)
    step()
    select(0, 3, 2)  # the last one moves into a hole
    step(tokens=3)
    join(70, 3)  # more columns, and more rows
    step()
    select(3)
    step()  # the longest one alone: no mask
    join(4)
    select(1, 0)  # in each other's way
    step()
    select(1, 1)  # one text goes on as two
    step()


def test_a_row_is_replaced_and_buffers_are_used_again() -> None:
    model = gpt()
    slots = model.new_slots()
    cache = model.new_cache(2, 6)
    model(torch.tensor([ids(6, 1), ids(6, 2)]), cache=cache)
    slots.put(cache, [0, 1])
    slots.put(cache, [1, 0, 1])
    rows, buffer = slots.keys[0].shape[0], slots.keys[0]
    slots.put(cache, [0], at=[1])
    for place, row in enumerate([0, 0, 1, 0, 1]):
        assert torch.equal(slots.keys[1][place, :, :6], cache.keys[1][row])
        assert torch.equal(slots.values[1][place, :, :6], cache.values[1][row])
    slots.select(torch.tensor([4, 3]))
    slots.put(cache, [0, 1])
    assert slots.keys[0] is buffer and buffer.shape[0] == rows and slots.lengths == [6, 6, 6, 6]
    slots.select(torch.tensor([], dtype=torch.long))
    assert (slots.batch, slots.length) == (0, 0)
