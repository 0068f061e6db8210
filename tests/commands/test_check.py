"""The self-check passes what is right, and finds what is broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gptlab.commands import checks as checking
from gptlab.commands.checks import cached, causal, drift, ordered, overfits, resumes, uniform
from gptlab.commands.main import main
from gptlab.data.batches.batch import Batch
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.sampler import TrainBatches
from gptlab.data.tokens.prepare import prepare
from gptlab.model import attention
from gptlab.model.attention import KVCache
from gptlab.model.config import GPTConfig, build_model
from gptlab.model.gpt import GPT
from gptlab.runs.run_dir import PASSING
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.forked import gptlab
from tests.model.own_models import RNNConfig

Tiny = Callable[..., TrainConfig]
NAMES = [
    "causality",
    "first loss near ln V",
    "order of the data",
    "overfits one batch",
    "micro-batches add up",
    "two processes as one",
    "resume to the bit",
    "bf16 close to fp32",
    "compiled as eager",
    "cache as no cache",
]


def model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=16, vocab_size=50)).eval()


@pytest.mark.slow
def test_a_sound_config_passes(texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its short runs are in children of this process; those of the test below are processes as users have them."""

    def in_child(arguments: list[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setenv(PASSING, "1")
            gptlab("train", *arguments)

    monkeypatch.setattr(checking, "_gptlab", in_child)
    assert main(["check", *tiny_overrides(texts), "optimizer.lr=0.01", "json=true"]) == 0
    result = json.loads(capfd.readouterr().out)["checks"]
    print(json.dumps(result, indent=1))
    assert list(result) == NAMES and all(finding["passed"] for finding in result.values())
    assert not Path("outputs").exists()  # its runs are nobody's latest


@pytest.mark.slow
def test_a_config_that_does_not_learn_fails_by_name(
    texts: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = checking._checks
    name = "overfits one batch"
    monkeypatch.setattr(checking, "_checks", lambda *rest: [each for each in every(*rest) if each[0] == name])
    assert main(["check", *tiny_overrides(texts), "optimizer=sgd", "optimizer.lr=1e-9"]) == 1
    shown = capfd.readouterr()
    assert shown.err.splitlines()[-1] == "error: check: overfits one batch: failed; see the table"
    assert "FAIL" in shown.out


@pytest.mark.slow
def test_the_model_of_the_run_that_a_command_names(tiny: Tiny, texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny("model.n_embd=8", "budget.steps=1"))
    seen: list[GPTConfig] = []
    monkeypatch.setattr(checking, "_checks", lambda gpt, *rest: seen.append(gpt.config) or [])
    data = [each for each in tiny_overrides(texts) if each.startswith("data")]
    for line in (["resume=run"], ["resume=run/checkpoints/last.ckpt"], ["config=run"], ["init_from=run", *data]):
        assert main(["check", *line]) == 0
    assert [(config.n_layer, config.n_embd, config.vocab_size) for config in seen] == [(2, 8, 257)] * 4


def test_a_model_of_another_package() -> None:
    """Without a cache there is none to check, and the others hold for it."""
    torch.manual_seed(0)
    rnn, batch = (
        build_model(RNNConfig(vocab_size=50)).eval(),
        Batch(torch.randint(50, (2, 16)), torch.randint(50, (2, 16))),
    )
    names = [name for name, _ in checking._checks(rnn, True, batch, None, None)]  # type: ignore[arg-type]
    assert names == NAMES[:-1]
    assert causal(rnn, batch.x)[0] and uniform(rnn, batch)[0]


def test_a_model_that_looks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(50, (2, 16))
    assert causal(model(), x)[0]
    monkeypatch.setattr(attention, "attend", lambda q, k, v, *_: F.scaled_dot_product_attention(q, k, v))
    assert not causal(model(), x)[0]


def test_a_model_that_is_sure_of_itself_at_the_start() -> None:
    gpt, batch = model(), Batch(torch.randint(50, (2, 16)), torch.randint(50, (2, 16)))
    assert uniform(gpt, batch)[0]
    with torch.no_grad():
        gpt.wte.weight *= 1000
    assert not uniform(gpt, batch)[0]


def test_a_cache_that_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randint(50, (2, 16))
    assert cached(model(), x)[0]
    extend = KVCache.extend
    monkeypatch.setattr(KVCache, "extend", lambda self, layer, k, v: extend(self, layer, k, v * 0))
    assert not cached(model(), x)[0]


def test_a_loss_that_drifts() -> None:
    gpt, batch = model(), Batch(torch.randint(50, (2, 16)), torch.randint(50, (2, 16)))
    other = GPT(gpt.config).eval()
    torch.nn.init.normal_(other.wte.weight, std=1.0)
    assert drift(gpt, batch, Loss(CausalLM(), gpt), 1e-6)[0] and not drift(gpt, batch, Loss(CausalLM(), other), 0.02)[0]


def data(tiny: Tiny) -> TextDataModule:
    config = tiny()
    return TextDataModule(prepare(config.data, config.tokenizer), config.data, 32, 0)


def test_an_order_that_depends_on_the_ranks(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ordered(data(tiny)) == (True, "256 windows, 0 of them twice")
    batches = TrainBatches.__iter__
    with monkeypatch.context() as patch:
        patch.setattr(
            TrainBatches, "__iter__", lambda self: iter(list(batches(self))[:: self.world_size] * self.world_size)
        )
        assert not ordered(data(tiny))[0]
    broken = data(tiny)
    broken.order.period = 8
    assert ordered(broken) == (False, "256 windows, 248 of them twice")


class Fake:
    """Runs whose metrics and weights are as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self, name: str, *overrides: str) -> Path:
        (self.folder / name / "checkpoints").mkdir(parents=True)
        for file in ("last", f"step-{checking.STEPS}"):
            torch.save({"state_dict": {"w": torch.zeros(3)}}, self.folder / f"{name}/checkpoints/{file}.ckpt")
        (self.folder / name / "metrics.csv").write_text("step,train/loss\n1,3.0\n40,2.9\n")
        return self.folder / name


def test_runs_that_do_not_do_what_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Fake(tmp_path)
    assert overfits(runs, drops_out=False) == (False, "3.000 to 2.900 in 40 steps")  # type: ignore[arg-type]

    def resumed(arguments: list[str]) -> None:
        torch.save({"state_dict": {"w": torch.tensor([0, 0, 1e-9])}}, tmp_path / "copy/checkpoints/last.ckpt")

    monkeypatch.setattr(checking, "_gptlab", resumed)
    assert resumes(runs) == (False, "1 of 3 weights differ")  # type: ignore[arg-type]
