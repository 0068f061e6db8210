import pytest
import torch

from gptlab.decoding.decoders import Greedy, Sample
from gptlab.decoding.generate import generate
from gptlab.errors import UserError
from gptlab.model.gpt import GPT, GPTConfig

T = 8


def gpt() -> GPT:
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=T, vocab_size=50)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


def test_greedy_appends_the_argmax_again_and_again() -> None:
    model, ids = gpt(), [3, 1, 4]
    new = list(generate(model, ids, Greedy(), 20, T))
    for token in new:
        assert token == model(torch.tensor([ids[-T:]]))[0, -1].argmax()
        ids.append(token)
    assert len(new) == 20


def test_draws_depend_on_the_seed_alone() -> None:
    model = gpt()
    first = list(generate(model, [1], Sample(), 20, T, seed=(7, 0)))
    torch.rand(3)  # other randomness does not matter
    assert list(generate(model, [1], Sample(), 20, T, seed=(7, 0))) == first
    assert list(generate(model, [1], Sample(), 20, T, seed=(7, 1))) != first


def test_stops_before_the_stop_token() -> None:
    model = gpt()
    new = list(generate(model, [1], Greedy(), 20, T))
    stop = new[3]
    assert list(generate(model, [1], Greedy(), 20, T, stop=stop)) == new[: new.index(stop)]


def test_leaves_no_gradients() -> None:
    model = gpt()
    list(generate(model, [1], Greedy(), 2, T))
    assert all(p.grad is None for p in model.parameters())


def test_ids_that_the_tokenizer_does_not_have_are_never_drawn() -> None:
    torch.manual_seed(0)
    model = gpt()
    new = set(generate(model, [1], Sample(), 300, T, n_vocab=5))
    assert new == set(range(5)) < set(generate(model, [1], Sample(), 300, T))


def test_a_model_that_has_diverged_says_so() -> None:
    model = gpt()
    model.lm_head.weight.data[3, 3] = torch.nan
    with pytest.raises(UserError, match=r"^run=its model: has diverged: its logits are not finite; "):
        list(generate(model, [1], Sample(), 5, T))
