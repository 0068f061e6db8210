import copy

import numpy as np
import pytest
import torch

from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.muon import MuonOptimizer, orthogonalize
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


def test_a_saved_state_goes_on_to_the_bit() -> None:
    whole, first = gpt(), gpt()
    optimizers = [Muon().build(whole), Muon().build(first)]
    for step in range(3):
        for model, optimizer in zip((whole, first), optimizers, strict=True):
            gradients(model, step)
            optimizer.step()
    second = gpt()
    second.load_state_dict(first.state_dict())
    resumed = Muon().build(second)
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
