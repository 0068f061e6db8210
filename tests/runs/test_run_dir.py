from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.runs.reader import find_runs
from gptlab.runs.run_dir import CHOSEN, RunDir, default_run_dir
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import save_by_hand

Tiny = Callable[..., TrainConfig]


def test_load_gives_what_was_trained(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    gpt, tokenizer = gptlab.load("outputs/latest")
    assert all(torch.equal(saved[f"gpt.{k}"], v) for k, v in gpt.state_dict().items())
    assert not gpt.training and gpt.lm_head.weight is gpt.wte.weight
    assert tokenizer.decode(tokenizer.encode("héllo")) == "héllo"
    assert gpt(torch.tensor([tokenizer.encode("the cat")])).shape == (1, 7, 257)


@pytest.mark.slow
def test_latest_is_the_newest(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(tiny(f"run_dir={tmp_path}/{name}", "budget.steps=1"))
        assert RunDir.find("latest").path.resolve() == tmp_path / name


@pytest.mark.slow
def test_latest_is_a_file_that_stands_for_its_run(tiny: Tiny, tmp_path: Path) -> None:
    """TensorBoard finds each run once; links of an older gptlab are followed, and replaced by the next run."""
    train(tiny(f"run_dir={tmp_path}/outputs/a", "budget.steps=1"))
    latest = tmp_path / "outputs/latest"
    assert latest.read_text() == "a\n" and len(find_runs([str(tmp_path / "outputs")])) == 1
    found = RunDir.find("outputs/latest/checkpoints/best.ckpt")
    assert found.path == Path("outputs/a") and found.checkpoint == Path("outputs/a/checkpoints/best.ckpt")
    assert [run.path for run in find_runs(["latest"])] == [tmp_path / "outputs/a"]
    assert gptlab.compose("train", [], run="outputs/latest").budget.steps == 1
    latest.unlink()
    latest.symlink_to("a")
    assert RunDir.find("latest").path.resolve() == tmp_path / "outputs/a"
    train(tiny(f"run_dir={tmp_path}/b", "budget.steps=1"))
    assert not latest.is_symlink() and latest.read_text() == f"{tmp_path}/b\n"
    latest.write_text("nothing\n")
    with pytest.raises(UserError, match="there is no run yet"):
        RunDir.find("latest")


def test_a_run_without_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.unlink()
    with pytest.raises(UserError, match=r"has no checkpoint last\.ckpt; it has best\.ckpt"):
        RunDir.find("latest")
    for path in last.parent.glob("*.ckpt"):
        path.unlink()
    with pytest.raises(UserError, match=r"has no checkpoint last\.ckpt; let the training reach one"):
        RunDir.find("latest")


@pytest.mark.parametrize("damage", ["cut", "garbage", "other"])
def test_a_damaged_checkpoint(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    train(tiny())
    path = tmp_path / "run/checkpoints/last.ckpt"
    (path.parent / "SHA256SUMS").unlink()  # which would tell
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    else:
        torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match=r"^run=.+last\.ckpt: is not a whole gptlab checkpoint"):
        gptlab.load("latest")


def test_no_code_runs_from_a_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "owned",)  # type: ignore[return-value]

    train(tiny())
    save_by_hand({"model": {}, "state_dict": Evil()}, tmp_path / "run/checkpoints/last.ckpt")
    with pytest.raises(UserError, match="is not a whole gptlab checkpoint"):
        gptlab.load("latest")
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
def test_sample(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny())
    capsys.readouterr()
    ask = ["prompt=the cat", "num_samples=2", "max_new_tokens=9"]
    result = sample(compose("sample", ask))
    _, tokenizer = gptlab.load()
    for s in result["samples"]:
        assert s["prompt"] == "the cat" and len(s["ids"]) <= 9 and s["text"] == tokenizer.decode(s["ids"])
    assert result["samples"][0] != result["samples"][1]
    assert capsys.readouterr().out.count("the cat") == 2
    assert sample(compose("sample", ask)) == result
    assert sample(compose("sample", [*ask, "seed=2"])) != result
    greedy = [sample(compose("sample", [*ask, "decoder=greedy", f"seed={s}"])) for s in (1, 2)]
    top_1 = sample(compose("sample", [*ask, "decoder=top_k", "decoder.k=1"]))
    assert greedy[0]["samples"] == greedy[1]["samples"] == top_1["samples"]
    assert top_1["decoder"] == "TopK(temperature=1.0, k=1)"


def test_sample_without_a_prompt_takes_the_run_s(tiny: Tiny) -> None:
    train(tiny())
    assert sample(compose("sample"))["samples"][0]["prompt"] == "the cat"


def test_two_runs_of_one_second_have_two_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHOSEN, raising=False)
    found = []
    for _ in range(3):
        found.append(default_run_dir("a %d b"))
        found[-1].mkdir(parents=True)
    assert len(set(found)) == 3 and all("-a %d b" in path.name for path in found)
    monkeypatch.setenv("LOCAL_RANK", "1")  # a process that Lightning has started
    assert default_run_dir("a %d b") == found[-1]


def test_two_commands_of_one_second_have_two_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stopped":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("hydra.core.utils.datetime", Stopped)
    first = Path(compose("train", ["name='a, b'"]).run_dir)
    assert first == tmp_path / "outputs/2026-01-02/03-04-05-a, b" and not Path("outputs").exists()
    first.mkdir(parents=True)
    assert Path(compose("train", ["name='a, b'"]).run_dir) == first.with_name(f"{first.name}-2")
