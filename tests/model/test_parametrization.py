"""muP and CompleteP: what they change of a model and its optimizer, by the tables of the papers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gptlab.errors import UserError
from gptlab.interop.folded import fold
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.model.heads import LastTokenHead
from gptlab.optim.optimizers import SGD, Adam, AdamW, Lion, Muon
from gptlab.optim.scaling import base_rate, set_rates

BASE: dict[str, Any] = {"base_width": 16, "base_depth": 2}
SHAPE: dict[str, Any] = {"n_layer": 4, "n_head": 4, "n_embd": 64, "block_size": 12, "vocab_size": 40, **BASE}
IDX = torch.randint(40, (2, 12), generator=torch.Generator().manual_seed(5))


def built(seed: int = 1, **more: Any) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(**SHAPE | more)).eval()


def spread(**more: Any) -> GPT:
    gpt, draw = built(**more), torch.Generator().manual_seed(2)
    for p in gpt.parameters():
        nn.init.normal_(p, std=0.3, generator=draw)
    return gpt


@pytest.mark.parametrize("kind", [AdamW, Adam, Lion, Muon])
@pytest.mark.parametrize("parametrization", ["mup", "completep"])
def test_at_the_size_of_the_base_all_is_standard_to_the_bit(parametrization: str, kind: Any) -> None:
    base = {"base_width": 64, "base_depth": 4, "base_head_size": 16, "tied": False}
    states = []
    for name in ("standard", parametrization):
        gpt = built(**base, parametrization=name)
        optimizer = kind(lr=0.01).build(gpt)
        for _ in range(2):
            gpt.zero_grad()
            gpt(IDX).logsumexp(-1).mean().backward()
            optimizer.step()
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        states.append((gpt.state_dict(), groups))
    assert states[0][1] == states[1][1]
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])


@pytest.mark.parametrize(("name", "layer"), [("mup", 1.0), ("completep", 0.5)])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_multipliers_are_those_of_the_tables(name: str, layer: float, tied: bool) -> None:
    """Four times as wide and twice as deep as the base, whose heads are 4 wide: factors 1/4, 1/2 and 1/16 by hand."""
    scaled = spread(parametrization=name, tied=tied, base_head_size=4)
    factors = {"logit_divisor": 4.0, "residual_scale": layer, "attention_scale": math.sqrt(4) / 16}
    assert torch.equal(scaled(IDX), spread(tied=tied, **factors)(IDX))
    assert not torch.allclose(scaled(IDX), spread(tied=tied)(IDX), atol=1e-2)
    own = {"logit_divisor": 2.0, "residual_scale": 0.6, "attention_scale": 0.3}
    both = {"logit_divisor": 8.0, "residual_scale": 0.6 * layer, "attention_scale": 0.3 / 4}
    scaled = spread(parametrization=name, tied=tied, base_head_size=4, **own)
    assert torch.allclose(scaled(IDX), spread(tied=tied, **both)(IDX), atol=1e-6)


@pytest.mark.parametrize(("name", "layers"), [("mup", 4), ("completep", 2)])
def test_first_weights_of_the_blocks_are_smaller_in_a_wider_model(name: str, layers: int) -> None:
    gpt = built(parametrization=name, tied=False)
    block: Any = gpt.blocks[0]
    expected = {gpt.wte: 0.02, gpt.lm_head: 0.02, block.attn.qkv: 0.01, block.mlp.fc: 0.01}
    expected |= {layer: 0.01 / math.sqrt(2 * layers) for layer in (block.attn.proj, block.mlp.proj)}
    for layer, std in expected.items():
        assert layer.weight.std().item() == pytest.approx(std, rel=0.06)


def settings_of(optimizer: torch.optim.Optimizer, p: Tensor) -> tuple[float, float, float]:
    (group,) = [group for group in optimizer.param_groups if any(p is other for other in group["params"])]
    return group["lr"], group["weight_decay"], group.get("eps", 0.0)


@pytest.mark.parametrize(
    ("kind", "matrix", "depth"),
    [
        (AdamW, (0.04 / 4, 0.3 * 4, 1e-6 / 4), 2),
        (Adam, (0.04 / 4, 0.3, 1e-6 / 4), 2),
        (Lion, (0.04 / 4, 0.3 * 4, 0.0), 1),
        (Muon, (0.04 / 2, 0.3 * 2, 0.0), 1),
    ],
)
def test_rates_decays_and_epsilons_are_those_of_the_tables(kind: Any, matrix: tuple[float, ...], depth: int) -> None:
    """Of a model four times as wide and twice as deep as its base."""
    eps = {} if kind is Lion else {"eps": 1e-6}
    settings = kind(lr=0.04, weight_decay=0.3, **eps)
    outside = 0.0 if kind is Lion else 1e-6 / 4
    for name in ("mup", "completep"):
        gpt = built(parametrization=name, tied=False)
        optimizer, block = settings.build(gpt), gpt.blocks[1]
        more = depth if name == "completep" else 1
        inside = 0.0 if kind is Lion else outside / (2 if name == "completep" else 1)
        for p in (block.attn.qkv.weight, block.attn.proj.weight, block.mlp.fc.weight, block.mlp.proj.weight):
            assert settings_of(optimizer, p) == pytest.approx((*matrix[:2], matrix[2] / more), rel=1e-12)
        for p in (gpt.wte.weight, gpt.wpe.weight, gpt.lm_head.weight):
            assert settings_of(optimizer, p) == pytest.approx((0.04, 0.3, outside), rel=1e-12)
        for p in (block.ln_1.weight, block.mlp.fc.bias):
            assert settings_of(optimizer, p) == pytest.approx((0.04, 0.0, inside), rel=1e-12)
        assert settings_of(optimizer, gpt.ln_f.weight) == pytest.approx((0.04, 0.0, outside), rel=1e-12)
        every = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(every) == len({id(p) for p in every}) == len(list(gpt.parameters()))


def test_two_steps_of_a_matrix_against_numpy() -> None:
    gpt = built(parametrization="completep").double()
    optimizer = AdamW(lr=0.1, weight_decay=0.2, eps=1e-3, beta1=0.8, beta2=0.9, fused=False).build(gpt)
    p = gpt.blocks[3].mlp.fc.weight
    w, m, v = p.detach().numpy().copy(), 0.0, 0.0
    rng = np.random.default_rng(0)
    for t in (1, 2):
        g = rng.normal(size=w.shape) * 1e-3
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w = w * (1 - 0.1 * 0.2) - 0.1 / 4 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3 / 8)
    assert np.allclose(p.detach().numpy(), w, atol=1e-12)


def test_a_schedule_keeps_the_ratios() -> None:
    optimizer = Muon(lr=0.04).build(built(parametrization="mup"))
    peaks = set_rates(optimizer, 0.08, 0.5)
    assert peaks[0] == pytest.approx(0.04) and set(peaks[1:]) == {0.08}  # the matrices, a fourth to the power of 1/2
    assert [group["lr"] for group in optimizer.param_groups] == [peak / 2 for peak in peaks]
    assert base_rate(optimizer) == pytest.approx(0.04)


def test_what_has_no_rule_is_refused() -> None:
    with pytest.raises(UserError, match=r"^optimizer=sgd: has no rule .+=mup; choose one of adam, adamw, lion, muon$"):
        SGD().build(built(parametrization="mup"))
    with pytest.raises(UserError, match=r"^init=torch: sets first weights .+; choose gpt2 or zero$"):
        built(parametrization="mup", init="torch")


FOLDED: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {"norm": "rms", "positions": "rope", "feed_forward": "swiglu", "bias": False, "n_kv_head": 2, "tied": False},
    "gemma": {"norm": "zero_centered_rms", "norm_at": "both", "qk_norm": True, "logit_softcap": 5.0, "head_size": 16},
    "olmo": {"norm": "rms", "norm_at": "after", "qk_norm": True, "qk_norm_over": "all", "positions": "rope"},
    "plain": {"norm": "plain_layer", "tied": False, "head_bias": True, "residual_scale": 0.7, "attention_scale": 0.4},
    "phi": {"residual": "parallel_one_norm", "tied": False, "head_bias": True, "logit_divisor": 3.0},
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDED)
@torch.no_grad()
def test_folded_into_the_weights_it_computes_the_same(name: str) -> None:
    gpt = spread(parametrization="completep", base_head_size=4, **FOLDED[name])
    before = gpt(IDX)
    fold(gpt)
    plain = built(**FOLDED[name])
    assert gpt.config.parametrization == "standard" and plain.config.width_ratio == 1
    plain.load_state_dict(gpt.state_dict())
    assert torch.allclose(gpt(IDX), before, atol=1e-4) and torch.equal(plain(IDX), gpt(IDX))


@torch.no_grad()
def test_a_model_without_its_head_keeps_its_hidden_states() -> None:
    gpt = spread(parametrization="completep")
    LastTokenHead(gpt, 3)
    before = gpt.hidden(IDX)
    fold(gpt)
    assert torch.allclose(gpt.hidden(IDX), before, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "key"),
    [({"norm": "plain_layer"}, "base_width=16"), ({"qkv_clip": 1.0, "base_head_size": 4}, "base_head_size=4")],
)
def test_where_a_factor_has_no_place_the_export_says_so(options: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"^model.{key}: has no place in .+; "):
        fold(built(parametrization="mup", **options))
