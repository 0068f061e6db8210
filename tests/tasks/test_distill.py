"""Distillation: its loss by hand in float64, its teachers, and runs that go on as if never stopped."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gptlab.commands.evaluate import evaluate
from gptlab.commands.main import main
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.batches.batch import IGNORE
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.base import Reading
from gptlab.tasks.distill import Distill
from gptlab.tasks.teachers import find_teachers
from gptlab.tokenizers.byte import Byte
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.run import train
from tests.conftest import tiny_overrides, working_in, write_texts
from tests.tasks import toys as toys  # registers a task that predicts no tokens
from tests.training.test_resume import require_equal_after_a_kill, resumed, rows

Tiny = Callable[..., TrainConfig]
T, V = 16, 40


def model(seed: int, n_embd: int = 8) -> GPT:
    torch.manual_seed(seed)
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=n_embd, block_size=T, vocab_size=V)).eval()
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return gpt


def taught(alpha: float, temperature: float, teachers: list[GPT]) -> Distill:
    task = Distill(teacher=["some"], alpha=alpha, temperature=temperature)
    task.teachers = tuple(each.requires_grad_(False) for each in teachers)
    return task


def softmax(logits: Any, temperature: float) -> Any:
    powers = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("separator", [None, 3])
@pytest.mark.parametrize(("alpha", "temperature", "n"), [(0.9, 2.0, 2), (0.3, 0.7, 1), (1.0, 4.0, 3)])
def test_the_loss_and_its_gradient_by_hand(
    alpha: float, temperature: float, n: int, separator: int | None, chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hinton et al. 2015, in float64: also the gradient at the student's logits, which is known in closed form."""
    monkeypatch.setattr("gptlab.tasks.teachers.CHUNK", 7)
    student, teachers = model(0), [model(seed, 16) for seed in range(1, n + 1)]
    x, y = torch.randint(V, (2, T)), torch.randint(V, (2, T))
    y[0, 3:9] = IGNORE
    task, reading = taught(alpha, temperature, teachers), Reading(separator, chunked)

    def logits_of(gpt: GPT) -> Any:
        documents = None if separator is None else (x == separator).cumsum(1)
        return gpt(x, documents=documents).detach().double().numpy()

    own, mean = logits_of(student), np.mean([softmax(logits_of(each), temperature) for each in teachers], 0)
    soft, hard = softmax(own, temperature), softmax(own, 1.0)
    divergence = (mean * np.log(mean / soft)).sum(-1)
    targets = np.where(y == IGNORE, 0, y)
    cross_entropy = -np.log(np.take_along_axis(hard, targets[..., None], -1))[..., 0]
    counts = (y != IGNORE).numpy()
    expected = (alpha * temperature**2 * divergence + (1 - alpha) * cross_entropy) * counts

    figures = task.losses(student, x, y, reading)  # held out: the text's own loss, and this one beside it
    np.testing.assert_allclose(figures["loss"].detach(), cross_entropy * counts, atol=1e-5)
    np.testing.assert_allclose(figures["distillation_loss"].detach(), expected, atol=1e-5)
    student.train()
    seen: list[torch.Tensor] = []
    student.lm_head.register_full_backward_pre_hook(lambda _, grads: seen.append(grads[0].flatten(0, -2)))
    (loss,) = task.losses(student, x, y, reading).values()
    np.testing.assert_allclose(loss.detach(), expected, atol=1e-5)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    gradient = alpha * temperature * (soft - mean) + (1 - alpha) * (hard - np.eye(V)[targets])
    found = torch.cat(seen[::-1] if chunked else seen)
    np.testing.assert_allclose(found, (gradient * counts[..., None]).reshape(-1, V), atol=1e-5)
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())


def test_the_teachers_compute_in_the_precision_of_the_run() -> None:
    x, y = torch.randint(V, (2, T)), torch.randint(V, (2, T))
    student, rounded = model(0), model(0).bfloat16()
    loss = Loss(taught(0.9, 2.0, [model(1)]), student, Reading(), torch.bfloat16)
    expected = taught(0.9, 2.0, [model(1).bfloat16()]).losses(rounded, x, y, Reading())
    figures = loss.figures(x, y)
    assert all(torch.equal(figures[name], value) for name, value in expected.items())
    assert {p.dtype for p in student.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two runs that have learned a little, of unequal sizes."""
    folder = tmp_path_factory.mktemp("teachers")
    base = [*tiny_overrides(write_texts(folder / "texts")), "optimizer.lr=0.01"]
    with working_in(folder):
        for name, width in (("one", 16), ("two", 24)):
            more = [f"model.n_embd={width}", f"seed={width}", f"run_dir={folder}/{name}"]
            train(compose("train", [*base, *more]))
    return folder


@pytest.fixture
def teachers(trained: Path, tmp_path: Path) -> list[str]:
    """Return two runs that may teach others."""
    return [str(shutil.copytree(trained / name, tmp_path / name)) for name in ("one", "two")]


def distilled(tiny: Tiny, teachers: list[str]) -> Tiny:
    return lambda *more: tiny("task=distill", f"task.teacher=[{','.join(teachers)}]", "logger=csv", *more)


@pytest.mark.slow
def test_a_run_learns_from_others_and_then_needs_none_of_them(
    tiny: Tiny, teachers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = distilled(tiny, ["one", "two"])  # from here; a run knows them from anywhere
    summary = train(ask("optimizer.lr=0.01", "budget.steps=12"))
    assert summary is not None
    said = capsys.readouterr().out
    assert re.search(r"val loss \S+ · \S+ bits/byte · distillation loss \d", said)
    found = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert found["task"]["teacher"] == teachers and [len(each) for each in found["task"]["sha256"]] == [64, 64]
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    plain = torch.load(tmp_path / "one/checkpoints/last.ckpt", weights_only=True)
    assert {k: v.shape for k, v in saved["state_dict"].items()} == {k: v.shape for k, v in plain["state_dict"].items()}
    assert len(saved["optimizer_states"][0]["state"]) == len(plain["optimizer_states"][0]["state"])
    curve = rows(tmp_path / "run")
    assert not [key for row in curve for key in row if key in ("train/perplexity", "train/bits_per_byte")]
    losses = [float(row["val/distillation_loss"]) for row in curve if "val/distillation_loss" in row]
    assert losses[-1] < losses[0] and summary["val_distillation_loss"] == pytest.approx(losses[-1])
    for each in teachers:
        shutil.rmtree(each)
    result = evaluate(compose("evaluate", ["run=run"]))
    assert result["loss"] == pytest.approx(summary["val_loss"], abs=1e-6) and "distillation_loss" not in result
    assert result["perplexity"] == pytest.approx(np.exp(result["loss"]))
    assert sample(compose("sample", ["run=run", "prompt=the cat", "max_new_tokens=3"]))["samples"]


@pytest.mark.slow
def test_without_weight_the_teachers_change_nothing(tiny: Tiny, teachers: list[str], tmp_path: Path) -> None:
    """alpha=0 is causal language modelling: the same curves and the same dropout, whoever else computes."""
    more = ["model.dropout=0.1", "ema=0.9", "logger=csv"]
    train(tiny(*more, f"run_dir={tmp_path}/plain"))
    train(distilled(tiny, teachers)(*more, "task.alpha=0"))
    for own, other in zip(rows(tmp_path / "run"), rows(tmp_path / "plain"), strict=True):
        both = [key for key in own if key in other and "second" not in key]
        assert {key: own[key] for key in both} == {key: other[key] for key in both} and len(both) > 1


@pytest.mark.slow
def test_it_goes_on_as_if_never_stopped(tiny: Tiny, teachers: list[str], tmp_path: Path) -> None:
    more = ["data.micro_batch_size=2", "model.dropout=0.1", "checkpoint.every_n_steps=2", "ema=0.9"]
    require_equal_after_a_kill(distilled(tiny, teachers), tmp_path, 7, *more)


@pytest.mark.slow
def test_a_teacher_that_has_changed_or_is_gone_is_refused(tiny: Tiny, teachers: list[str], tmp_path: Path) -> None:
    ask = distilled(tiny, teachers)
    train(ask("checkpoint.every_n_steps=2"))
    before = (tmp_path / "run/config.yaml").read_bytes()
    more = ["budget.steps=8"]
    shutil.move("two", "away")
    with pytest.raises(UserError, match=r"^task.teacher=\S+two: no such directory"):
        resumed(tmp_path / "run", *more)
    shutil.copytree("one", "two")
    why = r"its weights have SHA-256 \w{12}, and those that taught this run had \w{12}; put back the run that taught it"
    with pytest.raises(UserError, match=rf"^task.teacher=\S+two: {why}"):
        resumed(tmp_path / "run", *more)
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    summary = resumed(tmp_path / "run", *more, f"task.teacher=[{teachers[0]},{tmp_path}/away]")  # it has moved
    assert summary["steps"] == 8


def test_mistakes(teachers: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that tests/faults has not."""
    shutil.copytree("one", "sorts")
    config = (tmp_path / "sorts/config.yaml").read_text()
    (tmp_path / "sorts/config.yaml").write_text(config.replace("task: causal_lm", "task: ends"))
    for names, sha256, line in [
        (["sorts"], [], r"task.teacher=sorts: does not predict the next token; name another run"),
        (teachers, ["a"], r"task.teacher=\[.+\]: are 2 runs, and task.sha256 names the weights of 1"),
    ]:
        with pytest.raises(UserError, match=f"^{line}"):
            find_teachers(names, sha256, Byte().build([]), 32)
    assert main(["train", "teacher=[one]"]) == 2
    assert "gptlab train task=distill 'task.teacher=[one]'" in capsys.readouterr().err
    x = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(UserError, match=r"^task.teacher=\['one'\]: are not there"):
        Distill(teacher=["one"]).losses(model(0).train(), x, x, Reading())
