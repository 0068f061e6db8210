"""One global batch on any devices, in any precision: the same batches, losses equal to rounding."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.callbacks import batch_size_finder as batching
from gptlab.training.callbacks.batch_size_finder import promises
from gptlab.training.loss import Loss
from gptlab.training.precision import chosen_precision, require_precision, slow_precision
from gptlab.training.run import train
from gptlab.training.trainer import TrainerConfig
from tests.conftest import ROOT, tiny_overrides
from tests.forked import gptlab as in_child
from tests.training.test_resume import Tiny, resumed, same, weights

PACKED = ["data.packing=documents", "data.mask_documents=true", "model.block_size=400"]


def losses(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def command(texts: str, *more: str) -> None:
    in_child("train", *tiny_overrides(texts), "logger.every_n_steps=1", *more)


def compare(first: Path, second: Path, bound: float) -> None:
    for name in ("train/loss", "val/loss"):
        pairs = list(zip(losses(first, name), losses(second, name), strict=True))
        gap = max(abs(a - b) for a, b in pairs)
        print(f"{second.name}: {len(pairs)} x {name}, max |difference| {gap:.1e}")
        assert gap < bound
    a, b = weights(first), weights(second)
    assert set(a) == set(b)
    print(f"{second.name}: max |difference| of weights {max((a[key] - b[key]).abs().max() for key in a):.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dense", "packed"])
def test_one_two_and_four_devices(how: str, texts: str, tiny: Tiny, tmp_path: Path) -> None:
    """Packed by documents every micro-batch has another number of targets, and still counts by its tokens."""
    more = [*(PACKED if how == "packed" else []), "optimizer.lr=0.01"]
    train(tiny("logger.every_n_steps=1", *more, f"run_dir={tmp_path}/1"))
    for devices in (2, 4):
        command(texts, *more, f"trainer.devices={devices}", f"run_dir={devices}")
    compare(Path("1"), Path("2"), 2e-5)
    compare(Path("1"), Path("4"), 2e-5)


@pytest.mark.slow
def test_losses_count_by_tokens_over_the_whole_batch(tiny: Tiny, tmp_path: Path) -> None:
    """Micro-batches of one window each, with unequal numbers of targets, against all in one."""
    for micro in (4, 1):
        train(tiny(*PACKED, "logger.every_n_steps=1", f"data.micro_batch_size={micro}", f"run_dir={tmp_path}/{micro}"))
    for one, four in zip(losses(tmp_path / "4", "train/loss"), losses(tmp_path / "1", "train/loss"), strict=True):
        assert one == pytest.approx(four, abs=1e-5)
    assert (
        max(
            (weights(tmp_path / "4")[key] - weights(tmp_path / "1")[key]).abs().max() for key in weights(tmp_path / "1")
        )
        < 1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [[], ["optimizer=muon", "optimizer.normuon=true"]], ids=["adamw", "muon"])
def test_sharded(optimizer: list[str], texts: str, tiny: Tiny, tmp_path: Path) -> None:
    """FSDP2 on two processes: the losses of one, a checkpoint that others read, an exact way on."""
    fsdp = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2"]
    steady = ["schedule=constant", "optimizer.lr=0.01", "checkpoint.every_n_steps=3", "trainer.gradient_clip_val=0.1"]
    steady += ["optimizer.cautious_weight_decay=true", *optimizer]
    train(tiny("logger.every_n_steps=1", *steady, f"run_dir={tmp_path}/one"))
    command(texts, *steady, *fsdp, "run_dir=two")
    compare(Path("one"), Path("two"), 2e-5)
    gpt, _ = gptlab.load("two")
    assert gpt.lm_head.weight is gpt.wte.weight
    scored = evaluate(compose("evaluate", ["run=two"]))
    assert scored["loss"] == pytest.approx(losses(Path("two"), "val/loss")[-1], abs=1e-5)
    command(texts, *steady, *fsdp, "budget.steps=3", "run_dir=half")
    again = [sys.executable, str(ROOT / "train.py"), "resume=half", "budget.steps=6"]
    subprocess.run(again, check=True, capture_output=True)
    assert same(Path("two"), Path("half"))
    assert "the cat" in Path("two/samples.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "most"),
    [([], 1e-4), (["optimizer=muon", "optimizer.normuon=true"], 0.01)],  # whose iteration rounds to bf16
    ids=["adamw", "muon"],
)
def test_a_run_goes_on_sharded_and_back(
    optimizer: list[str], most: float, texts: str, tiny: Tiny, tmp_path: Path
) -> None:
    """One device, then two with FSDP2, then one: weights and the optimizer's state are those of a run on one alone."""
    steady = ["schedule=constant", "optimizer.lr=0.01", "logger.every_n_steps=1", "budget.steps=9", *optimizer]
    train(tiny(*steady, f"run_dir={tmp_path}/one"))
    # its average is what evaluates it; training goes on with the trained weights
    train(tiny(*steady, "budget.steps=3", "ema=0.5", f"run_dir={tmp_path}/moved"))
    again = [sys.executable, str(ROOT / "train.py"), "resume=moved", "trainer.val_every_n_steps=3"]
    two = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "ema=null", "budget.steps=6"]
    done = subprocess.run([*again, *two], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one = ["trainer=cpu", "budget.steps=9", "trainer.val_every_n_steps=3"]
    resumed(tmp_path / "moved", *one)
    trained = [losses(tmp_path / run, "train/loss") for run in ("one", "moved")]
    assert trained[1] == pytest.approx(trained[0], abs=2e-5) and len(trained[0]) == 9
    a, b = weights(tmp_path / "one"), weights(tmp_path / "moved")
    assert max((a[key] - b[key]).abs().max() for key in a) < most
    states = [
        torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
        for run in ("one", "moved")
    ]
    moments = [[state["state"][i] for g in state["param_groups"] for i in g["params"]] for state in states]
    for of_one, of_moved in zip(*moments, strict=True):
        assert of_one.keys() == of_moved.keys() and float(of_one.get("step", 9)) == float(of_moved.get("step", 9)) == 9
        for key in of_one.keys() & {"exp_avg", "momentum_buffer", "row_second_moment"}:
            torch.testing.assert_close(of_moved[key], of_one[key], atol=most / 10, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_minutes_on_two_devices(how: str, texts: str) -> None:
    """Both time steps with each other, take one number, and leave no trace."""
    two = [f"trainer={how}", "trainer.accelerator=cpu", "trainer.devices=2", "data.micro_batch_size=1"]
    command(texts, *two, "budget.steps=null", "budget.minutes=0.01", "run_dir=minutes")
    steps = json.loads(Path("minutes/summary.json").read_text())["steps"]
    command(texts, *two, f"budget.steps={steps}", "run_dir=steps")
    assert steps > 1 and same(Path("minutes"), Path("steps"))


@pytest.mark.parametrize(
    ("override", "bound"),
    [
        ("trainer.activation_checkpointing=true", 0.0),
        ("trainer.precision=bf16-true", 0.02),
        ("trainer.precision=bf16-mixed", 0.02),
    ],
)
def test_the_same_training_by_other_means(override: str, bound: float, tiny: Tiny, tmp_path: Path) -> None:
    plain = ["model.dropout=0.1", "optimizer.lr=0.01", "budget.steps=12"]
    train(tiny(*plain, f"run_dir={tmp_path}/plain"))
    train(tiny(*plain, override))
    gaps = [abs(a - b) for a, b in zip(*(losses(tmp_path / run, "val/loss") for run in ("plain", "run")), strict=True)]
    assert max(gaps) <= bound and (bound == 0 or max(gaps) > 0)
    assert all(w.dtype == torch.float32 for w in weights(tmp_path / "run").values())  # master weights


def test_what_bf16_true_computes() -> None:
    """Products in bf16, by weights rounded to it; gradients in fp32, and the tied weight gets both of its own."""
    from gptlab.model.config import GPTConfig
    from gptlab.model.gpt import GPT

    gpt = GPT(GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=11))
    seen = set()
    gpt.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    x, y = torch.randint(11, (2, 2, 8))
    Loss(CausalLM(), gpt, dtype=torch.bfloat16)(x, y).sum().backward()
    low = {name: p.grad for name, p in gpt.named_parameters()}
    gpt.zero_grad()
    assert seen == {torch.bfloat16}
    Loss(CausalLM(), gpt)(x, y).sum().backward()
    for name, p in gpt.named_parameters():
        assert low[name].dtype == torch.float32
        assert (low[name] - p.grad).norm() < 0.05 * p.grad.norm(), name


@pytest.mark.slow
def test_compiled(tiny: Tiny, tmp_path: Path) -> None:
    plain = ["optimizer.lr=0.01", "model.n_layer=1", "checkpoint.every_n_steps=3", "schedule=constant"]
    train(tiny(*plain, f"run_dir={tmp_path}/plain"))
    train(tiny(*plain, "compile=true", f"run_dir={tmp_path}/compiled"))
    compare(tmp_path / "plain", tmp_path / "compiled", 1e-4)  # the same names of weights too
    train(tiny(*plain, "compile=true", "budget.steps=3"))
    resumed(tmp_path / "run", "budget.steps=6")
    one, other = weights(tmp_path / "run"), weights(tmp_path / "compiled")
    # its kernels add in any order, where there are several threads
    assert max((one[key] - other[key]).abs().max() for key in one) < 1e-4


def test_no_compiler(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"^compile=true: needs a C\+\+ compiler on a CPU; install g\+\+"):
        train(tiny("compile=true"))


@pytest.mark.slow
@pytest.mark.parametrize(("room", "batch", "expected"), [(1, 12, 1), (5, 12, 4), (9, 24, 8), (100, 12, 12)])
def test_the_largest_micro_batch_that_fits(
    room: int, batch: int, expected: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with room for so many sequences takes the largest divisor of the batch."""
    forward = Loss.forward

    def limited(self: Loss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, y)

    monkeypatch.setattr(Loss, "forward", limited)
    size = [f"data.batch_size={batch}", "logger.every_n_steps=1", "model.dropout=0.1"]
    train(tiny(*size, "data.micro_batch_size=auto"))
    train(tiny(*size, f"data.micro_batch_size={expected}", f"run_dir={tmp_path}/given"))
    assert same(tmp_path / "run", tmp_path / "given")


def test_auto_stops_before_a_cpu_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(batching, "free_memory", lambda: 100)
    monkeypatch.setattr(batching, "memory", lambda: 1000)
    assert promises([(1, 1010), (2, 1020)], 8)  # 1080 expected, 80 more than there is now
    assert not promises([(1, 1010), (2, 1020)], 12)
    assert promises([(1, 5000)], 2)  # one point is no line


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "32-true"])
def test_a_gpu_without_bf16(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    asked = TrainerConfig(precision=precision)
    require_precision(asked.precision, torch.device("cpu"))
    if precision == "32-true":
        require_precision(asked.precision, torch.device("cuda"))
        return
    with pytest.raises(UserError, match=rf"^trainer\.precision={precision}: this GPU does not have bf16; try 16-mixed"):
        require_precision(asked.precision, torch.device("cuda"))


# processors as torch describes them, and whether they compute in bf16; None where it does not say
PROCESSORS = {
    "Haswell": ({"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}, False),
    "Ice Lake": ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
    "Zen 4": ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
    "Sapphire Rapids": ({"avx2": True, "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}, True),
    "Cortex-A72": ({"neon": True, "bf16": False}, False),
    "Graviton3": ({"neon": True, "bf16": True, "sve_bf16": True}, True),
    "POWER": ({"architecture": "ppc64le"}, None),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_without_bf16_is_told_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, able = PROCESSORS[name]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    cpu = torch.device("cpu")
    for precision in ("bf16-true", "bf16-mixed"):
        advice = slow_precision(precision, cpu)
        assert (advice is not None) == (able is False), advice
        assert slow_precision(precision, torch.device("cuda")) is None
    assert slow_precision("32-true", cpu) is None


@pytest.mark.parametrize("name", PROCESSORS)
def test_auto_is_what_the_processor_computes_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities, able = PROCESSORS[name]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    on_cpu = "bf16-true" if able else "32-true"
    assert [chosen_precision("auto", each) for each in ("auto", "cpu", "mps")] == [on_cpu, on_cpu, "32-true"]
    assert chosen_precision("16-mixed", "gpu") == "16-mixed"
    for there, expected in {True: "bf16-mixed", False: "32-true"}.items():
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        assert [chosen_precision("auto", each) for each in ("auto", "gpu", "cpu")] == [expected, expected, on_cpu]


@pytest.mark.parametrize("has", [True, False])
def test_a_run_keeps_what_auto_was(has: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor of another kind it goes on in the precision that it began with."""
    told = [{"avx512_bf16": has, "amx_bf16": False}]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told[0], raising=False)
    train(tiny(f"run_dir={tmp_path}/run", "budget.steps=2", "trainer.precision=auto", "trainer.accelerator=cpu"))
    written = RunDir(tmp_path / "run").config()["trainer"]["precision"]
    assert written == ("bf16-true" if has else "32-true")
    told[0] = {"avx512_bf16": not has, "amx_bf16": False}
    resumed(tmp_path / "run", "budget.steps=3")
    assert RunDir(tmp_path / "run").config()["trainer"]["precision"] == written


def test_what_this_torch_tells_of_its_processor() -> None:
    """The names of the capabilities are torch's own; older torch tells none, and then nothing is said."""
    if not hasattr(torch.cpu, "get_capabilities"):
        assert slow_precision("bf16-true", torch.device("cpu")) is None
        return
    told = torch.cpu.get_capabilities()
    if told["architecture"] == "x86_64":
        assert {"avx512_bf16", "amx_bf16"} <= told.keys()


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_the_advice_stands_at_the_start_of_a_run(
    precision: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PROCESSORS["Haswell"][0], raising=False)
    train(tiny(f"trainer.precision={precision}", "budget.steps=1"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trainer.precision")]
    why = "this processor has no instructions for bf16 (neither avx512_bf16 nor amx_bf16)"
    todo = "it may take many times as long as 32-true"
    assert lines == ([f"trainer.precision=bf16-true: {why}; {todo}"] if precision == "bf16-true" else [])


REFUSED = {
    ("data.micro_batch_size=0",): "data.micro_batch_size=0: is no number from 1 up",
    ("data.micro_batch_size=most",): "data.micro_batch_size=most: is no number from 1 up",
    ("trainer.precision=16-true",): "trainer.precision=16-true: has no room for small gradients; try 16-mixed",
    ("trainer.precision=16-mixed",): "trainer.precision=16-mixed: a CPU does not have it; try bf16-mixed",
    ("trainer.precision=8-bit",): "trainer.precision=8-bit: ",
    ("trainer.accelerator=gpu", "trainer.devices=64"): "trainer.(devices|accelerator)=(64|gpu): ",
    ("trainer=fsdp", "ema=0.9"): "ema=0.9: cannot average sharded weights",
    ("trainer=fsdp", "tail_average=0.2"): "tail_average=0.2: cannot average sharded weights",
    ("trainer=fsdp", "data.micro_batch_size=auto"): "data.micro_batch_size=auto: cannot try out a sharded model",
    ("ema=1.0",): r"ema=1\.0: is not in \(0, 1\)",
    ("on_nan=ignore",): "on_nan=ignore: no such option; choose one of stop, skip, rewind",
    ("trainer.max_minutes=0",): r"trainer\.max_minutes=0",
    ("optimizer.lr=0",): r"optimizer\.lr=0",
    ("optimizer.lr=-1",): r"optimizer\.lr=-1",
    ("budget.steps=0",): r"budget\.steps=0",
    ("budget.tokens=5", "budget.steps=5"): r"budget\.tokens=5",
    ("data.batch_size=0",): r"data\.batch_size=0",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=" ".join)
def test_what_cannot_be(overrides: tuple[str, ...], tiny: Tiny) -> None:
    with pytest.raises(UserError, match=f"^{REFUSED[overrides]}"):
        train(tiny(*overrides))
