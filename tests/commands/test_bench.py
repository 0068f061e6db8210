"""`gptlab bench` on tiny runs: what it answers, that it keeps its time, and that it leaves nothing behind."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptlab.commands.bench import bench
from gptlab.commands.bench_inference import DeviceLimits, speeds
from gptlab.commands.bench_tables import rate
from gptlab.commands.bench_training import _figures
from gptlab.commands.flags import of_run
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.model.gpt import GPT
from gptlab.planning import limits
from gptlab.planning.inference import decode_bytes, prefill_flops
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from gptlab.training.step_parts import PARTS, Step
from gptlab.training.timing import TrainingSpeed
from gptlab.training.trials import Change
from tests.conftest import tiny_overrides
from tests.written_runs import MakeRun

BANDWIDTH, PEAK = 1e9, 1e10  # of a made-up device


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure no device, and try no changes: that takes seconds."""
    monkeypatch.setattr(limits, "best_square_product", lambda dtype, device: PEAK)
    monkeypatch.setattr(limits, "read_bandwidth", lambda device: BANDWIDTH)
    monkeypatch.setattr("gptlab.training.trials.candidates", lambda config, speed: [])


def ticking(monkeypatch: pytest.MonkeyPatch, tick: float) -> Callable[[float], None]:
    """Let the clock go on by `tick` whenever it is read; returns a function that moves it."""
    now = [0.0]

    def read() -> float:
        now[0] += tick
        return now[0]

    monkeypatch.setattr(time, "perf_counter", read)
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_run_is_measured_and_left_as_it_is(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    train(tiny("trainer.precision=bf16-true", "optimizer=lion"))
    (tmp_path / "passing").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "passing"))
    before = tree(tmp_path)
    ticking(monkeypatch, 0.005)
    capfd.readouterr()
    assert main(["bench", f"run={tmp_path}/run", "seconds=5", "batches=[4,1]", "prompts=[8,32]", "json=true"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert tree(tmp_path) == before
    assert (found["run"], found["precision"], found["not_measured"]) == (f"{tmp_path}/run", "bf16-true", [])

    config = GPT(compose("train", run=tmp_path / "run").model).config
    decode, prefill, training = found["inference"]["decode"], found["inference"]["prefill"], found["training"]
    assert found["inference"]["precision"] == "bf16-true" and found["inference"]["context"] == 16
    assert [row["batch"] for row in decode] == [1, 4] and [row["prompt_tokens"] for row in prefill] == [8, 32]
    for row in decode:  # behind 16 tokens, 16 more: 24 on average
        assert row["milliseconds_per_token"] * row["tokens_per_second"] == pytest.approx(1000 * row["batch"])
        assert row["bytes_per_token"] == decode_bytes(config, row["batch"], 24, 2)
        share = row["tokens_per_second"] * row["bytes_per_token"] / BANDWIDTH
        assert row["share_of_bandwidth"] == pytest.approx(share)
        assert row["share_of_peak"] == pytest.approx(row["tokens_per_second"] * row["flops_per_token"] / PEAK)
    for row in prefill:
        assert row["flops"] == prefill_flops(config, row["prompt_tokens"])
        assert row["share_of_peak"] == pytest.approx(1000 * row["flops"] / row["milliseconds"] / PEAK)
    parts = ("data", "forward", "backward", "optimizer", "weight_average", "rest")
    assert sum(training[f"{part}_seconds"] for part in parts) == pytest.approx(training["seconds_per_step"])
    assert training["tokens_per_second"] == pytest.approx(4 * 32 / training["seconds_per_step"])
    assert training["mfu"] == pytest.approx(training["tokens_per_second"] * training["flops_per_token"] / PEAK)
    assert training["tokens_per_step"] == 128 and training["mfu_is_of"] == "the best product here"


def test_it_keeps_its_time(texts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Each call of the model takes three seconds: what there is no time for is said, and nothing runs over."""
    move, forward = ticking(monkeypatch, 0.001), GPT.forward

    def slow(self: GPT, *args: Any, **kwargs: Any) -> Any:
        move(3.0)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(GPT, "forward", slow)
    again = [Change("a=1"), Change("b=1"), Change("c=1")]
    monkeypatch.setattr("gptlab.training.trials.candidates", lambda config, speed: again)
    found = bench(compose("bench", [*tiny_overrides(texts), "seconds=60", "prompts=[8]", "batches=[1,2,4,8,16]"]))
    assert found["seconds"] <= 60
    rows = found["inference"]["decode"]
    assert rows[0]["repeats"] >= 1 and rows[-1]["tokens_per_second"] is None and rows[-1]["repeats"] == 0
    assert found["training"]["steps"] >= 1
    gains = [each["gain"] for each in found["tried"] if each["of"] == "training"]
    assert gains[0] == pytest.approx(1, abs=0.1) and gains[-1] is None
    said = " ".join(capfd.readouterr().out.split())
    assert "not measured" in said and "not tried, give more seconds: " in said


@pytest.mark.slow
def test_there_may_be_no_time_for_a_step(
    texts: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gptlab.training.timing.build", lambda *_: time.sleep(60))
    monkeypatch.setattr("gptlab.commands.bench.LEAST_SECONDS", 1)
    found = bench(compose("bench", [*tiny_overrides(texts), "seconds=1", "batches=[1]", "prompts=[8]"]))
    assert found["training"] is None and found["not_measured"] == ["training"] and found["seconds"] < 5
    assert "training: not measured; give more seconds" in capfd.readouterr().out


@pytest.mark.slow
def test_a_task_that_predicts_no_tokens_is_trained_alone(capfd: pytest.CaptureFixture[str]) -> None:
    model = [f"model.{key}" for key in ("n_layer=1", "n_head=2", "n_embd=16", "block_size=64")]
    found = bench(compose("bench", ["task=classification", "data=labelled", *model, "trainer=cpu", "seconds=5"]))
    assert found["inference"] is None and found["training"]["steps"] >= 1
    assert "decoding" not in capfd.readouterr().out


def test_a_run_stands_for_its_config(make_run: MakeRun, tmp_path: Path) -> None:
    """One that was imported or averaged has none of a training: it is what a new run begins with."""
    run, imported = make_run("own"), make_run("imported", imported_from="gpt2")
    for path in (run, imported):
        (path / "checkpoints").mkdir()
        (path / "checkpoints/last.ckpt").write_bytes(b"")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text("{}")
    assert of_run(["seed=2"]) == ["seed=2"] and of_run(["run=null"]) == ["run=null"]
    expected = {
        f"{run}": f"config='{run}/config.yaml'",
        f"{run}/checkpoints/last.ckpt": f"config='{run}/config.yaml'",
        f"{imported}": f"init_from='{imported}'",
        f"{tmp_path}/hf": f"init_from='{tmp_path}/hf'",
    }
    for name, first in expected.items():
        assert of_run([f"run={name}", "seed=2"]) == [first, f"run={name}", "seed=2"]


def test_a_speed_has_the_spread_of_its_middle() -> None:
    found = speeds(10, [1.0, 2.0, 4.0, *[2.0] * 8])
    assert list(found.values()) == [5.0, 5.0, 5.0, 2000.0]  # the fastest and the slowest of eleven are left out
    assert set(speeds(10, []).values()) == {None}


def test_rates_have_no_exponents() -> None:
    shown = [rate(value, "B/s") for value in (28.84e9, 999.6e6, 999.6e9, 2500e12, 123456.0)]
    assert shown == ["28.8 GB/s", "1,000 MB/s", "1,000 GB/s", "2,500 TB/s", "0.123 MB/s"]


def test_where_the_parts_are_waited_for_the_steps_are_those_without(tiny: Callable[..., TrainConfig]) -> None:
    """As on a GPU: 12 steps of 2 s with waits, and of 0.5 to 1.6 s without, of which 2 are logged together."""
    waited = [Step(dict.fromkeys(PARTS, 2.0 / len(PARTS)), 128, False)] * 12
    free = [Step({**dict.fromkeys(PARTS, 0.0), "rest": 0.5 + n / 10}, 128, False) for n in range(12)]
    speed = TrainingSpeed(waited, free, 2, 1, 4, 1000, 100, torch.device("cpu"), 5.0, 30.0)
    found = _figures(tiny(), tiny(), speed, DeviceLimits("cpu", 1.0, {"fp32": 1e9, "bf16": 1e9}))
    low, mean, high = (found[f"seconds_per_step{end}"] for end in ("_low", "", "_high"))
    assert mean == pytest.approx(1.05) and low == pytest.approx(0.55) and high == pytest.approx(1.55)
    assert found["tokens_per_second"] == pytest.approx(128 / 1.05)
    assert found["forward_seconds"] == pytest.approx(2.0 / 6)
