import math

import pytest
import torch

from gptlab.config import compose
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT, num_params

TINY = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=11)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)],
)
def test_gpt2_sizes(size: str, parameters: int) -> None:
    config = compose("train", [f"model={size}", "model.vocab_size=50257"]).model
    with torch.device("meta"):
        assert num_params(GPT(config)) == parameters


def test_defaults_are_gpt2_small() -> None:
    with torch.device("meta"):
        assert num_params(GPT(GPTConfig())) == 124_439_808


def test_untrained_loss_is_near_uniform() -> None:
    gpt = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=16, vocab_size=1000)).eval()
    idx = torch.randint(1000, (8, 17))
    loss = torch.nn.functional.cross_entropy(gpt(idx[:, :-1]).flatten(0, 1), idx[:, 1:].flatten())
    assert abs(loss.item() - math.log(1000)) < 0.05


def test_n_tokens_give_n_predictions() -> None:
    assert GPT(TINY)(torch.zeros(3, 5, dtype=torch.long)).shape == (3, 5, 11)


def test_a_token_changes_no_logits_before_it() -> None:
    gpt = GPT(TINY).eval()
    idx = torch.randint(11, (1, 8))
    before = gpt(idx)
    for j in range(8):
        other = idx.clone()
        other[0, j] = (other[0, j] + 1) % 11
        after = gpt(other)
        assert torch.equal(after[:, :j], before[:, :j])
        assert not torch.equal(after[:, j], before[:, j])


def test_gradient_of_a_prediction_to_later_embeddings_is_exactly_zero() -> None:
    gpt = GPT(TINY).eval()
    seen: list[torch.Tensor] = []
    gpt.wte.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad_()) or out)
    logits = gpt(torch.randint(11, (1, 8)))
    for t in range(8):
        (grad,) = torch.autograd.grad(logits[0, t].sum(), seen[0], retain_graph=True)
        assert grad[0, t + 1 :].abs().sum() == 0
        assert grad[0, : t + 1].abs().sum(-1).min() > 0


def test_against_an_independent_forward_pass() -> None:
    """NumPy in float64, written from the paper's equations."""
    import numpy as np

    gpt = GPT(TINY).eval()
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    w = {k: v.detach().double().numpy() for k, v in gpt.state_dict().items()}
    idx = torch.randint(11, (1, 8))

    def norm(x, name):
        mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) / np.sqrt(var + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["wte.weight"][idx[0]] + w["wpe.weight"]
    for layer in ("blocks.0", "blocks.1"):
        q, k, v = np.split(linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.qkv"), 3, axis=-1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            scores = q[:, h] @ k[:, h].T / np.sqrt(8) + np.triu(np.full((8, 8), -np.inf), 1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, h])
        x = x + linear(np.concatenate(heads, -1), f"{layer}.attn.proj")
        z = linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.fc")
        gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        x = x + linear(gelu, f"{layer}.mlp.proj")
    expected = norm(x, "ln_f") @ w["wte.weight"].T
    assert np.abs(gpt(idx)[0].detach().numpy() - expected).max() < 1e-4


def test_residual_projections_start_smaller() -> None:
    gpt = GPT(GPTConfig(n_layer=8, n_head=4, n_embd=128, block_size=16, vocab_size=500))
    scaled = torch.cat(
        [b.attn.proj.weight.flatten() for b in gpt.blocks] + [b.mlp.proj.weight.flatten() for b in gpt.blocks]
    )
    assert scaled.std().item() == pytest.approx(0.02 / math.sqrt(16), rel=0.02)
    assert gpt.blocks[0].mlp.fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gpt.lm_head.weight is gpt.wte.weight


def test_no_biases() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5, bias=False))
    assert not [name for name, _ in gpt.named_parameters() if "bias" in name]


def test_dropout_only_in_training() -> None:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5, dropout=0.5))
    idx = torch.tensor([[1, 2, 3]])
    assert not torch.equal(gpt(idx), gpt(idx))
    gpt.eval()
    assert torch.equal(gpt(idx), gpt(idx))


@pytest.mark.parametrize(
    "field", [{"n_head": 7}, {"n_layer": 0}, {"block_size": 0}, {"dropout": 1.0}, {"vocab_size": -1}]
)
def test_impossible_shapes_name_the_field(field: dict[str, float]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: .+; .+"):
        GPTConfig(**({"n_embd": 16, "n_head": 4} | field))


def test_too_long_an_input_says_so() -> None:
    with pytest.raises(ValueError, match="9 tokens do not fit into block_size=8"):
        GPT(TINY)(torch.zeros(1, 9, dtype=torch.long))
