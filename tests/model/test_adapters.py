"""Adapters: no-ops at first, equal to peft's, merged without a difference, and they train only what they say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptlab.errors import UserError
from gptlab.model.adapters import Adapter, BitFit, DoRA, HeadOnly, LastN, LoRA, adapt
from gptlab.model.config import GPTConfig, build_model
from gptlab.model.gpt import GPT
from gptlab.model.lora import DoRALinear, LoRALinear, merge

ALL: dict[str, Adapter] = {
    "lora": LoRA(rank=3),
    "rslora": LoRA(rank=4, alpha=2, rslora=True),
    "lora of some": LoRA(layers=["attn.*", "blocks.1.mlp.fc"]),
    "dora": DoRA(rank=3),
    "last_n": LastN(1),
    "bitfit": BitFit(),
    "head": HeadOnly(),
}
X = torch.randint(0, 99, (2, 9))


def small(**more: Any) -> GPT:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 99, **more}
    gpt: GPT = build_model(GPTConfig(**shape))
    return gpt.eval()


@pytest.mark.parametrize("name", ALL)
def test_it_begins_as_a_no_op_and_merges_without_a_difference(name: str) -> None:
    gpt = small()
    before, weights = gpt(X), {key: value.clone() for key, value in gpt.state_dict().items()}
    trained = adapt(gpt, ALL[name])
    assert torch.equal(gpt(X), before)
    optimizer = torch.optim.AdamW([p for p in gpt.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        gpt(X).logsumexp(-1).square().mean().backward()
        optimizer.step()
    assert [key for key, p in gpt.named_parameters() if p.grad is not None] == trained
    frozen = {key: value for key, value in gpt.state_dict().items() if key not in trained}
    untouched = [key for key in frozen if key in weights and key not in ("lm_head.weight" if name == "head" else "")]
    assert untouched and all(torch.equal(frozen[key], weights[key]) for key in untouched)
    after = gpt(X)
    assert (after - before).abs().max() > 0.01
    assert (merge(gpt)(X) - after).abs().max() < 1e-5
    assert set(gpt.state_dict()) == set(weights)


def by_hand(
    name: str, layer: torch.nn.Linear, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, m: torch.Tensor
) -> Any:
    """The equations of the papers in float64, on whole matrices."""
    w, x, a, b, m = (each.detach().double() for each in (layer.weight, x, a, b, m))
    v = w + 16 / 3 * b @ a
    if name == "dora":
        v = m[:, None] * v / v.square().sum(1).sqrt()[:, None]
    return x @ v.T + layer.bias.detach().double()


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_the_equations(name: str) -> None:
    torch.manual_seed(1)
    layer, x, m = torch.nn.Linear(6, 5), torch.randn(4, 6), torch.rand(5) + 0.5
    kind: Callable[..., LoRALinear] = DoRALinear if name == "dora" else LoRALinear
    made = kind(layer, 3, 16 / 3, 0.0)
    torch.nn.init.normal_(made.lora_b)
    if isinstance(made, DoRALinear):
        made.lora_magnitude.data = m
    assert torch.allclose(made(x).double(), by_hand(name, layer, x, made.lora_a, made.lora_b, m), atol=1e-5)


def test_dropout_is_that_of_the_model_s_mode() -> None:
    gpt = small()
    adapt(gpt, LoRA(dropout=0.5))
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.2)
    assert torch.equal(gpt(X), gpt(X))
    gpt.train()
    assert not torch.equal(gpt(X), gpt(X))


def test_what_is_trained() -> None:
    def trained(adapter: Adapter, **more: Any) -> list[str]:
        return adapt(small(**more), adapter)

    assert trained(HeadOnly()) == ["wte.weight"] and trained(HeadOnly(), tied=False) == ["lm_head.weight"]
    assert {name.rpartition(".lora_")[0] for name in trained(LoRA(), tied=False)} == {
        f"blocks.{i}.{each}" for i in (0, 1) for each in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")
    }
    assert trained(LoRA(layers=["lm_head"]), tied=False) == ["lm_head.lora_a", "lm_head.lora_b"]
    assert {name.split(".")[0] for name in trained(LastN(1))} == {"blocks", "ln_f"}
    assert not [name for name in trained(LastN(1)) if name.startswith("blocks.0")]
    assert all(name.endswith("bias") for name in trained(BitFit()))


MISTAKES: list[tuple[Adapter, dict[str, Any], str]] = [
    (
        LoRA(layers=["attn.q_proj"]),
        {},
        "adapter.layers=attn.q_proj: fits no linear layer; there are attn.qkv, attn.proj",
    ),
    (LoRA(layers=["lm_head"]), {}, "adapter.layers=lm_head: shares its weights with another layer; leave it out"),
    (LastN(3), {}, "adapter.n=3: is more than the 2 layers of the model; give fewer"),
    (BitFit(), {"bias": False}, "adapter=bitfit: the model has no biases; choose another"),
]


@pytest.mark.parametrize(("adapter", "shape", "why"), MISTAKES, ids=lambda each: type(each).__name__)
def test_mistakes(adapter: Adapter, shape: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as found:
        adapt(small(**shape), adapter)
    assert str(found.value).startswith(why)


@pytest.mark.parametrize("key", ["rank", "alpha", "dropout", "lr_ratio"])
def test_settings_that_make_no_sense(key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}=-1: "):
        LoRA(**{key: -1})
