import copy

import numpy as np
import pytest
import torch

from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.muon import COEFFICIENTS, MuonOptimizer, newton_schulz, normalize_rows, orthogonalize
from gptlab.optim.optimizers import AdamW, Muon


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=20))


def gradients(model: GPT, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_singular_values_move_near_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    moved = torch.linalg.svdvals(orthogonalize(matrices).float())
    assert 0.6 < moved.min() and moved.max() < 1.3
    assert (orthogonalize(matrices).float() - u @ vh).norm() / (u @ vh).norm() < 0.3


def test_steps_are_those_of_torch_s_muon_and_adamw() -> None:
    """Muon of torch takes one matrix at a time, its AdamW the rest."""
    ours, theirs = gpt(), gpt()
    optimizer = Muon(lr=0.01, momentum=0.9, weight_decay=0.2).build(ours)
    hidden = [p for p in theirs.blocks.parameters() if p.ndim == 2]
    rest = [p for p in theirs.parameters() if not any(p is h for h in hidden)]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.2},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    expected = [
        torch.optim.Muon(hidden, lr=0.01, momentum=0.9, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95)),
    ]
    for step in range(4):
        gradients(ours, step)
        gradients(theirs, step)
        optimizer.step()
        for other in expected:
            other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-3)  # the iteration is in bf16, and ours multiplies batches
    assert max((a - b).abs().max() for a, b in zip(ours.parameters(), gpt().parameters(), strict=True)) > 0.02


def test_every_parameter_has_one_owner() -> None:
    model = gpt()
    optimizer = Muon().build(model)
    every = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(every) == len({id(p) for p in every}) == len(list(model.parameters()))
    muon = optimizer.param_groups[0]["params"]
    assert len(muon) == 2 * 4 and all(p.ndim == 2 for p in muon)
    assert not any(p is model.wte.weight for p in muon)


@pytest.mark.parametrize("config", [Muon(), Muon(normuon=True, coefficients="polar_express")])
def test_a_saved_state_goes_on_to_the_bit(config: Muon) -> None:
    whole, first = gpt(), gpt()
    optimizers = [config.build(whole), config.build(first)]
    for step in range(3):
        for model, optimizer in zip((whole, first), optimizers, strict=True):
            gradients(model, step)
            optimizer.step()
    second = gpt()
    second.load_state_dict(first.state_dict())
    resumed = config.build(second)
    resumed.load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    for step in range(3, 6):
        for model, optimizer in ((whole, optimizers[0]), (second, resumed)):
            gradients(model, step)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_a_schedule_reaches_both() -> None:
    optimizer = Muon(lr=0.1).build(gpt())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert isinstance(optimizer, MuonOptimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05] * 3
    assert [group["lr"] for group in optimizer.adamw.param_groups] == [0.05] * 2


def test_rates_compare_with_adamw_s() -> None:
    """Updates of the same size, by the root of their mean square, from one learning rate."""
    sizes = []
    for kind in (AdamW, Muon):
        model = gpt()
        before = [p.clone() for p in model.blocks.parameters() if p.ndim == 2]
        optimizer = kind(lr=0.01, weight_decay=0.0).build(model)
        gradients(model, 0)
        optimizer.step()
        after = [p for p in model.blocks.parameters() if p.ndim == 2]
        sizes.append(torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).square().mean().sqrt())
    assert 0.1 < sizes[1] / sizes[0] < 0.4  # AdamW's first step is larger than its usual 0.2 to 0.4 of the rate


def test_in_fp32_where_bf16_would_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same iteration in NumPy and float64 is near to 1e-4 in fp32, and in bf16 is not."""
    matrices = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(3))
    x = matrices.numpy().astype(np.float64)
    x = x / np.linalg.norm(x, axis=(1, 2), keepdims=True)
    for _ in range(5):
        gram = x @ x.swapaxes(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    off = {}
    for name, has in {"emulated": False, "in hardware": True}.items():
        told = {"avx512_bf16": has, "amx_bf16": False}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        found = orthogonalize(matrices)
        assert found.dtype == (torch.bfloat16 if has else torch.float32)
        off[name] = np.abs(found.float().numpy() - x).max()
    assert off["emulated"] < 1e-4 < 1e-3 < off["in hardware"]


def test_five_iterations_beside_the_polar_factor_of_an_svd() -> None:
    """In float64, with singular values from 0.001 of the Frobenius norm up."""
    draw = torch.Generator().manual_seed(5)
    u, v = (torch.linalg.qr(torch.randn(n, 48, generator=draw, dtype=torch.float64)).Q for n in (48, 80))
    s = torch.logspace(-1, -3, 48, dtype=torch.float64)
    s[0] = (1 - s[1:].square().sum()).sqrt()
    matrix = (u * s) @ v.mT
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar, worst, mean, rounded = left @ right, {}, {}, {}
    for name, polynomials in COEFFICIENTS.items():
        for given, factor in ((matrix, polar), (matrix.mT, polar.mT)):
            off = newton_schulz(given[None], polynomials)[0] - factor
            worst[name] = torch.linalg.matrix_norm(off, 2).item()
            mean[name] = (off.norm() / factor.norm()).item()
        off = orthogonalize(matrix[None], name)[0].double() - polar  # in bf16
        rounded[name] = (off.norm() / polar.norm()).item()
    assert worst["quintic"] == pytest.approx(0.529, abs=0.002)
    assert worst["polar_express"] == pytest.approx(0.154, abs=0.002)
    assert mean["polar_express"] < 0.5 * mean["quintic"] and rounded["polar_express"] < 0.7 * rounded["quintic"]


def test_rows_of_an_update_against_numpy() -> None:
    """NorMuon in float64: over the root of the second moments of rows, with the norm of before."""
    draw = np.random.default_rng(0)
    moment, expected = torch.zeros(2, 6, 1, dtype=torch.float64), np.zeros((2, 6, 1))
    for _ in range(3):
        o = draw.normal(size=(2, 6, 4)) * np.array([1, 2, 3, 4, 5, 0])[:, None]
        expected = 0.9 * expected + 0.1 * (o**2).mean(axis=2, keepdims=True)
        rows = o / (np.sqrt(expected) + 1e-10)
        rows *= np.sqrt((o**2).sum(axis=(1, 2), keepdims=True) / (rows**2).sum(axis=(1, 2), keepdims=True))
        found = normalize_rows(torch.from_numpy(o), moment, 0.9)
        assert np.allclose(found, rows, atol=1e-12) and np.allclose(moment, expected, atol=1e-12)
    assert torch.equal(normalize_rows(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1), 0.9), torch.zeros(1, 2, 3))


def test_a_step_of_normuon_has_the_size_of_muon_s_and_rows_alike() -> None:
    size, spread = {}, {}
    for normuon in (False, True):
        model = gpt()
        p = model.blocks[0].mlp.fc.weight
        before = p.detach().clone()
        optimizer = Muon(lr=0.01, weight_decay=0.0, normuon=normuon).build(model)
        gradients(model, 0)
        optimizer.step()
        rows = (p.detach() - before).norm(dim=1)
        size[normuon], spread[normuon] = rows.norm().item(), (rows.std() / rows.mean()).item()
        assert set(optimizer.state[p]) == {"momentum_buffer"} | ({"row_second_moment"} if normuon else set())
    assert size[True] == pytest.approx(size[False], rel=1e-4)
    assert spread[True] < 1e-4 < 0.05 < spread[False]


def test_a_checkpoint_of_before_the_options_goes_on() -> None:
    """Its groups have none of their keys."""
    model = gpt()
    optimizer = Muon().build(model)
    state = copy.deepcopy(optimizer.state_dict())
    del state["param_groups"][0]["coefficients"]
    optimizer.load_state_dict(state)
    gradients(model, 0)
    optimizer.step()
    other = gpt()
    gradients(other, 0)
    Muon().build(other).step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_coefficients_have_names() -> None:
    with pytest.raises(UserError, match=r"^coefficients=cubic: no such option; choose one of quintic, polar_express$"):
        Muon(coefficients="cubic")
    assert [*COEFFICIENTS] == ["quintic", "polar_express"]
