"""A run keeps the right checkpoints, and never half of one."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptlab.errors import UserError
from gptlab.runs.checkpoint_file import is_whole
from gptlab.training.callbacks import checkpointing as checkpoints
from gptlab.training.callbacks.checkpointing import CheckpointFiles
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.training.test_resume import resumed

Tiny = Callable[..., TrainConfig]


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize(("keep", "kept"), [(1, {7}), (3, {7, 6, 4})])
def test_the_newest_are_kept_and_last_is_the_newest(keep: int, kept: set[int], tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("budget.steps=7", "checkpoint.every_n_steps=2", f"checkpoint.keep_last={keep}"))
    folder = tmp_path / "run/checkpoints"
    assert {step_of(path) for path in folder.glob("step-*.ckpt")} == kept
    assert {int(path.stem[5:]) for path in folder.glob("step-*.ckpt")} == kept
    assert step_of(folder / "last.ckpt") == 7 and (folder / "last.ckpt").samefile(folder / "step-7.ckpt")


def test_by_minutes(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances a minute whenever checkpoints read it: at the start, after each step and after each save."""
    now = iter(range(0, 60000, 60))
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(now)))
    train(tiny("checkpoint.every_n_steps=null", "checkpoint.every_n_minutes=3", "checkpoint.keep_last=9"))
    found = sorted(step_of(path) for path in (tmp_path / "run/checkpoints").glob("step-*.ckpt"))
    assert found == [3, 6]


def test_nothing_is_saved_twice_for_one_step(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    whole = CheckpointFiles.save_checkpoint

    def save(self: CheckpointFiles, checkpoint: dict[str, object], path: Path, storage_options: object = None) -> None:
        written.append(Path(path).name)
        whole(self, checkpoint, path)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", save)
    train(tiny("checkpoint.every_n_steps=3"))  # validations and the end fall on the same steps
    assert sorted(set(written) - {"best.ckpt"}) == ["step-3.ckpt", "step-6.ckpt"]
    assert len([name for name in written if name != "best.ckpt"]) == 2


def test_checksums_are_as_sha256sum_reads_them(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("checkpoint.every_n_steps=2"))
    folder = tmp_path / "run/checkpoints"
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines if not line.startswith("#"))
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.ckpt")}
    assert listed == there and set(there) == {"best.ckpt", "last.ckpt", "step-6.ckpt", "step-4.ckpt"}


def test_whole_until_a_bit_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"a": torch.arange(1000)}, path)
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not is_whole(path)
    CheckpointFiles().save_checkpoint({"a": torch.arange(1000)}, path)
    assert is_whole(path)
    (tmp_path / "SHA256SUMS").unlink()  # of an earlier version
    assert is_whole(path)
    path.write_bytes(content[:300])
    assert not is_whole(path)


def test_killed_between_the_list_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint before is still taken for whole."""
    path = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"a": torch.ones(9)}, path)

    replace = checkpoints.os.replace

    def killed(work: Path, target: Path) -> None:
        if target == path:
            raise KeyboardInterrupt
        replace(work, target)

    monkeypatch.setattr(checkpoints.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        CheckpointFiles().save_checkpoint({"a": torch.zeros(9)}, path)
    assert is_whole(path) and torch.load(path, weights_only=True)["a"].sum() == 9
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", "SHA256SUMS"}


FULL = """
import resource, signal, sys
from gptlab.commands.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES, BYTES))
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_one_before(tiny: Tiny, tmp_path: Path) -> None:
    """Files may not grow beyond a size that the second run's checkpoints pass: its end is an error, one line, exit
    code 1, and the checkpoint of the first is whole."""
    train(tiny("logger=none"))
    size = (tmp_path / "run/checkpoints/last.ckpt").stat().st_size
    script = FULL.replace("BYTES", str(size // 2))
    more = ["resume=run", "budget.steps=9", "checkpoint.every_n_steps=7"]
    done = subprocess.run([sys.executable, "-c", script, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot be written (" in errors[0] and "resume=" in errors[0], done.stderr
    assert "Traceback" not in done.stderr
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert is_whole(last) and step_of(last) == 6
    assert not [path for path in last.parent.iterdir() if path.name.startswith(".step")]


def test_mistakes(tiny: Tiny) -> None:
    for key in ("every_n_steps", "every_n_minutes", "keep_last"):
        with pytest.raises(UserError, match=rf"^checkpoint\.{key}=0"):
            tiny(f"checkpoint.{key}=0")


@pytest.mark.slow
def test_averaged_weights_are_what_is_saved_and_resumed(tiny: Tiny, tmp_path: Path) -> None:
    """An exponential moving average by hand, of the weights of every step."""
    every = ["schedule=constant", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9"]
    train(tiny(*every, f"run_dir={tmp_path}/plain"))
    train(tiny(*every, "ema=0.5"))
    steps = [
        torch.load(tmp_path / f"plain/checkpoints/step-{n}.ckpt", weights_only=True)["state_dict"] for n in range(1, 7)
    ]
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    for name, average in saved["state_dict"].items():
        expected = steps[0][name].double()  # the first one is taken as it is
        for later in steps[1:]:
            expected = 0.5 * expected + 0.5 * later[name].double()
        assert torch.allclose(average.double(), expected, atol=1e-6)
        assert torch.equal(saved["current_model_state"][name], steps[-1][name])


@pytest.mark.slow
def test_the_mean_of_the_last_weights_is_what_is_saved(tiny: Tiny, tmp_path: Path) -> None:
    """Of 6 steps the last 0.4 are 2.4, so the weights of two; a longer run has another tail, and begins its mean again."""
    every = ["schedule=constant", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9"]
    train(tiny(*every, "budget.steps=9", f"run_dir={tmp_path}/plain"))
    steps = [
        torch.load(tmp_path / f"plain/checkpoints/step-{n}.ckpt", weights_only=True)["state_dict"] for n in range(1, 10)
    ]

    def check(of: list[int], begin: int) -> None:
        saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
        assert saved["tail_average"] == {"begin": begin, "count": len(of)}
        for name, average in saved["state_dict"].items():
            expected = torch.stack([steps[n - 1][name].double() for n in of]).mean(0)
            assert torch.allclose(average.double(), expected, atol=1e-7), name
            assert torch.equal(saved["current_model_state"][name], steps[of[-1] - 1][name])

    train(tiny(*every, "tail_average=0.4"))
    check([5, 6], begin=4)
    before = torch.load(tmp_path / "run/checkpoints/step-4.ckpt", weights_only=True)
    assert not {"current_model_state", "tail_average"} & set(before)
    assert all(torch.equal(before["state_dict"][name], steps[3][name]) for name in steps[3])
    resumed(tmp_path / "run", "budget.steps=9")
    check([7, 8, 9], begin=5)  # 0.4 of 9 are 3.6 steps: the mean over the last four goes without the sixth
