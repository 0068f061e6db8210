import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gptlab.commands.main import main
from gptlab.tasks import cross_entropy
from tests.conftest import tiny_overrides
from tests.forked import Child, script
from tests.model import test_ring, test_slots

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import side_by_side

    return side_by_side


def bench(name: str, *arguments: str) -> str:
    return script(FOLDER / name, *arguments).stdout


def test_results_whose_ranges_overlap_are_ties(side_by_side: Any) -> None:
    first, second, third = (side_by_side.Figure.of(values) for values in ([1.0, 3.0, 2.0], [2.9, 5.0], [3.1]))
    assert (first.median, first.low, first.high, first.repeats) == (2.0, 1.0, 3.0, 3)
    assert first.ties(second) and second.ties(first) and not first.ties(third)


def test_losses_with_growing_batches_are_compared_by_seed(side_by_side: Any) -> None:
    import batch_size  # type: ignore[import-not-found]
    from scipy.stats import ttest_rel

    constant, grown = ([{"val_loss": loss, "steps": steps, "tokens": 9} for loss in losses] for losses, steps in (
        ([3.0, 3.2, 3.1], 20), ([3.1, 3.25, 3.22], 8)
    ))  # fmt: skip
    found = batch_size.summary(grown, constant)
    expected = ttest_rel([3.1, 3.25, 3.22], [3.0, 3.2, 3.1]).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert found["above"] == pytest.approx(0.09) and found["fewer"] == pytest.approx(0.6)
    assert batch_size.summary(constant, constant)["interval"] is None


def test_every_round_asks_each_candidate_once_until_it_fails(
    side_by_side: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measure(name: str) -> dict[str, int]:
        asked.append(name)
        if name == "b" and len(asked) > 3:
            raise side_by_side.LeftOut("broken")
        return {"at": len(asked), "seconds": 1234.5 if name == "a" else None}

    found, left_out = side_by_side.interleaved(["a", "b", "c"], 3, measure)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "  round 1 of 3: a is done, 1,234 s" and said[2] == "  round 1 of 3: c is done"
    found = {name: [{"at": each["at"]} for each in rounds] for name, rounds in found.items()}
    assert asked == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert left_out == {"b": "broken"}
    assert found == {"a": [{"at": 1}, {"at": 4}, {"at": 7}], "c": [{"at": 3}, {"at": 6}, {"at": 8}]}


def test_the_peak_of_a_process_is_its_own() -> None:
    work = [sys.executable, "-c", "b'1' * (500 * 2**20)"]
    code = f"import side_by_side; print(side_by_side.fresh({work}).peak_mb)"  # from a process that is small itself
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert 500 < float(done.stdout) < 550


def test_a_process_that_fails_is_known_by_its_error(side_by_side: Any) -> None:
    done = side_by_side.fresh([sys.executable, "-c", "import nothing_like_it"])
    assert done.code == 1 and done.why().startswith("ModuleNotFoundError")
    boxed = "import sys; print('ValueError: no room\\nsee the log\\n=====', file=sys.stderr); sys.exit(3)"
    assert side_by_side.fresh([sys.executable, "-c", boxed]).why() == "ValueError: no room"


def test_losses_are_read_as_often_as_something_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import trainers

    clock = trainers.Clock(SimpleNamespace(every=2, device=torch.device("cpu")))
    for step in range(1, 5):
        clock.after(torch.tensor(float(step)))
        assert len(clock.seconds) == 1 + step // 2 and clock.losses == [1.0, 2.0, 3.0, 4.0][: step // 2 * 2]
    assert sorted(clock.seconds) == clock.seconds and clock.measured()["every"] == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(side_by_side: Any) -> None:
    assert side_by_side.device("auto") == side_by_side.device("cpu") == "cpu"
    with pytest.raises(SystemExit, match="--device=cuda: torch finds no GPU here"):
        side_by_side.device("cuda")


@pytest.mark.slow
def test_startup_runs(texts: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Child, "codes", True)
    bench("startup.py", "--repeats", "1", "--out", str(tmp_path / "found.json"), *tiny_overrides(texts))
    found = json.loads((tmp_path / "found.json").read_text())
    (work,) = found["workloads"]
    seconds = {name: each["seconds"]["median"] for name, each in work["candidates"].items()}
    assert not work["left_out"] and found["machine"]["versions"]["torch"]
    difference = seconds["first step"] - seconds["imports"]
    assert len(seconds) == 9 and seconds["first step - imports"] == pytest.approx(difference)


@pytest.mark.slow
def test_data_runs(tmp_path: Path) -> None:
    asked = ["--mb", "1", "--memory-mb", "2", "--repeats", "1"]
    bench("data.py", *asked, "--out", str(tmp_path / "found.json"))
    (work,) = json.loads((tmp_path / "found.json").read_text())["workloads"]
    assert set(work["candidates"]) == {"gptlab", "tiktoken"} and not work["left_out"]
    assert work["memory"]["parent_mb"] > 0 and work["random_access"]["warm"] > 0


@pytest.mark.parametrize("positions", ["rope", "alibi"])
@pytest.mark.usefixtures("side_by_side")
@torch.no_grad()
def test_losses_past_the_context(positions: str) -> None:
    """In one layer a ring is a crop, and with sinks a text of those and of the last tokens, read by itself.

    In several it is what NumPy finds.
    """
    import overflow

    T, text = test_ring.T, torch.tensor([test_slots.ids(200, 1)])
    model = test_ring.gpt(positions=positions, n_layer=1)
    found = overflow.compare(model, text[0], T, stretches=3, every=5)
    assert found["tokens"] == 3 * 10 and found["ring"]["0"]["change"] == pytest.approx(0, abs=1e-5)
    assert abs(found["ring"]["4"]["change"]) > 1e-3
    x, y = text[:, : 3 * T], text[:, 1 : 3 * T + 1]
    for end in (T + 1, 3 * T):
        alone = model(torch.cat([text[:, :4], text[:, end - T + 4 : end]], dim=1))[:, -1:]
        loss = overflow.ring_losses(model, x[:, :end], y[:, :end], T, 4)[:, -1:]
        torch.testing.assert_close(loss, overflow.nats(alone, y[:, end - 1 : end]), atol=1e-5, rtol=1e-4)
    deep = test_ring.gpt(positions=positions, n_layer=3)
    for sinks in (0, 4):
        logits = torch.tensor(test_ring.whole(deep, x[0].tolist(), sinks=sinks))
        expected = overflow.nats(logits[None], y).float()
        torch.testing.assert_close(overflow.ring_losses(deep, x, y, T, sinks), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_fifty_thousand_million_tokens_take_no_more_memory(tmp_path: Path) -> None:
    sizes = ["100000000", "50000000000"]
    bench("corpus_size.py", "--tokens", *sizes, "--repeats", "1", "--out", str(tmp_path / "found.json"))
    few, many = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert few["exact"] and many["exact"]  # also deep in the second epoch, after a resume
    assert many["tokens"] == 5 * 10**10 and many["shards"] == 834  # of 60 million
    assert many["windows"] == (5 * 10**10 - 1) // 1024 and many["deep_window"] > 0.9 * many["windows"]
    assert many["anon_mb"]["median"] < few["anon_mb"]["median"] + 8
    assert many["read_mb"]["median"] < few["read_mb"]["median"] + 8


@pytest.mark.slow
@pytest.mark.new_processes
def test_growth_runs(tmp_path: Path) -> None:
    bench("growth.py", "--quick", "--axes", "devices", "--out", str(tmp_path / "found.json"))
    (devices,) = json.loads((tmp_path / "found.json").read_text())["workloads"]
    assert not devices["left_out"] and devices["sizes"] == [1, 2]
    assert devices["peak_mb"]["exponent"]["median"] == pytest.approx(devices["peak_mb"]["expected"], abs=0.2)


@pytest.mark.slow
def test_chunks_bound_the_memory_for_logits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench("growth.py", "--quick", "--axes", "logits", "--out", str(tmp_path / "found.json"))
    by_vocabulary, by_batch = json.loads((tmp_path / "found.json").read_text())["workloads"]
    for each in (by_vocabulary, by_batch):
        assert each["exponent"]["full"] == pytest.approx(1, abs=0.1)
        assert all(row["chunked"] < 5 * row["chunk"] for row in each["peak_mb"])
    assert abs(by_batch["exponent"]["chunked"]) < 0.2
    monkeypatch.syspath_prepend(FOLDER)
    import growth

    assert growth.CHUNK == cross_entropy.CHUNK
    assert growth.slope([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert math.isnan(growth.slope([1], [3.0]))


@pytest.mark.slow
def test_what_runs_on_a_gpu_runs_on_a_cpu_with_a_small_model(tmp_path: Path) -> None:
    """Each script runs as gpu.sh asks for it, which says at its end what has failed."""
    model = ["n_layer=1", "n_head=2", "n_embd=32", "block_size=16", "n_vocab=250", "padded=256"]
    length = ["--batch", "2", "--steps", "2", "--warmup", "1"]
    more = {"DEVICE": "cpu", "REPEATS": "1", "RESULTS": str(tmp_path), "DECODE": "--n-layer 1 --new 4 --batch 2"}
    more["ATTENTION"] = "--shapes 1"
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> "$RESULTS/asked"\nexit $EXIT\n')
    (tmp_path / "python").chmod(0o755)
    command = [FOLDER / "gpu.sh", "--shape", *model, *length, "--candidates", "gptlab_bf16", "bare_bf16"]
    for code in (1, 0):
        (tmp_path / "asked").unlink(missing_ok=True)
        env = os.environ | more | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "EXIT": str(code)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert ("failed: benchmarks/train.py benchmarks/decode.py benchmarks/attention.py" in done.stderr) == code
    for asked in (tmp_path / "asked").read_text().splitlines():
        name, *arguments = asked.split()
        with torch.compiler.set_stance("force_eager"):  # compiling takes most of the time
            bench(name.removeprefix("benchmarks/"), *arguments)
    trained, decoded, attended = (
        json.loads((tmp_path / f"{name}-gpu.json").read_text()) for name in ("train", "decode", "attention")
    )
    (work,) = trained["workloads"]
    assert (work["name"], work["n_layer"], work["padded"], work["device"]) == ("w3", 1, 256, "cpu")
    ours, bare = (work["candidates"][name] for name in ("gptlab_bf16", "bare_bf16"))
    assert ours["first_loss"] == pytest.approx(bare["first_loss"], abs=1e-5) == pytest.approx(math.log(256), abs=0.1)
    *texts, past = decoded["workloads"]
    assert [(each["precision"], each["batch"]) for each in texts] == [("float32", 2), ("bfloat16", 2), ("int8", 2)]
    assert all(each["candidates"]["gptlab"]["tokens_per_second"]["median"] > 0 for each in texts)
    assert set(past["candidates"]) == {"ring", "sinks", "crop", "within"} and not past["left_out"]
    assert past["candidates"]["ring"]["step_ms"]["median"] > 0
    training, generation = (work["rows"] for work in attended["workloads"])
    for rows, ways in (
        (training, {"fused_ms", "products_ms", "compiled_ms"}),
        (generation, {"fused_ms", "products_ms"}),
    ):
        assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
        assert all(ways == set(row) - {"shape", "precision"} and row["fused_ms"] > 0 for row in rows)


@pytest.mark.slow
def test_train_runs_and_the_losses_of_two_loops_agree(tmp_path: Path) -> None:
    arguments = ["--workload", "w1", "--steps", "4", "--warmup", "2", "--repeats", "1"]
    bench("train.py", *arguments, "--candidates", "gptlab", "bare", "nanogpt", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())["workloads"][0]
    assert found["left_out"] == {"nanogpt": "give its checkout with --nanogpt DIR"}
    ours, bare = (found["candidates"][name] for name in ("gptlab", "bare"))
    assert ours["first_loss"] == pytest.approx(bare["first_loss"], abs=1e-5)
    assert ours["last_loss"] == pytest.approx(bare["last_loss"], abs=1e-4)
    assert ours["own_tokens_per_second"] and not bare["own_tokens_per_second"]
    assert 0 < ours["of_limit"] < 1 and ours["tokens_per_second"]["repeats"] == 1


@pytest.mark.slow
def test_efficiency_runs(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "plays.txt").write_text((real_data / "tinyshakespeare.txt").read_text()[:20_000])
    lengths = "--steps", "6", "--short", "3", "--seeds", "1"
    bench("efficiency.py", "--text", str(tmp_path / "plays.txt"), *lengths, "--out", str(tmp_path / "found.json"))
    (work,) = json.loads((tmp_path / "found.json").read_text())["workloads"]
    gpt2, modern, short = (work["candidates"][name] for name in ("gpt2", "modern", "modern, short"))
    assert (gpt2["steps"], modern["steps"], short["steps"], gpt2["of_gpt2"]) == (6, 6, 3, 1.0)
    assert len({row["val_loss"] for row in (gpt2, modern, short)}) == 3 and modern["standard_error"] is None


def test_losses_of_recipes_are_summed_up_over_seeds(side_by_side: Any) -> None:
    import efficiency  # type: ignore[import-not-found]

    losses, seconds = [1.87, 1.90, 1.88, 1.95], [3.0, 1.0, 8.0, 2.0]
    runs = [{"val_loss": loss, "seconds": time, "steps": 9} for loss, time in zip(losses, seconds, strict=True)]
    found = efficiency.summary(runs, [{"seconds": time} for time in (2.0, 2.0, 2.0, 2.0)])
    assert (found["steps"], found["reached"], found["seconds"], found["of_gpt2"]) == (9, 2, 2.5, 1.25)
    assert found["val_loss"] == pytest.approx(1.9)
    squares = sum((loss - 1.9) ** 2 for loss in losses)
    assert found["standard_error"] == pytest.approx(math.sqrt(squares / 3 / 4))


def test_a_pruned_search_is_measured_by_its_finished_runs(side_by_side: Any) -> None:
    import search  # type: ignore[import-not-found]

    whole = [{"status": "finished", "steps": 10, "val_loss": loss} for loss in (2.0, 1.5, 3.0)]
    pruned = [
        dict(whole[0]),
        {"status": "pruned", "steps": 4, "val_loss": 1.2},
        {**whole[2], "steps": 1, "status": "pruned"},
    ]
    assert search.beside(whole, pruned) == {"share_of_steps": 0.5, "above_best": 0.5}


def test_copies_of_a_run_are_runs_of_their_own(
    side_by_side: Any, tmp_path: Path, make_run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of which a report knows the seeds and the learning rates."""
    import report  # type: ignore[import-not-found]

    report.copy_runs(make_run("one"), tmp_path / "copies", 12)
    assert main(["report", f"runs={tmp_path}/copies", "pictures=false", "json=true"]) == 0
    found = json.loads(capfd.readouterr().out)["runs"]
    assert len(found) == 12 and len({each["val_loss"] for each in found}) == 12
    lr = [
        yaml.safe_load((path / "config.yaml").read_text())["optimizer"]["lr"]
        for path in sorted((tmp_path / "copies").glob("0*"))
    ]
    assert lr == pytest.approx([1e-4] * 5 + [2e-4] * 5 + [3e-4] * 2)
    assert sorted(each["seed"] for each in found) == sorted([0, 1, 2, 3, 4] * 2 + [0, 1])


def test_each_round_of_a_recipe_has_a_seed_of_its_own(
    side_by_side: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import efficiency

    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(efficiency.Bench, "gptlab", lambda self, *given: asked.append(given) or {})
    bench = efficiency.Bench(tmp_path, SimpleNamespace(nanogpt=None, text=None, steps=9, short=4))
    asked.clear()  # what prepares the text
    for name in ("gpt2", "modern", "modern, short", "modern"):
        bench.measure(name)
    assert asked == [
        ("shakespeare_char", "gpt2-1", "seed=1", "budget.steps=9"),
        ("modern_char", "modern-1", "seed=1", "budget.steps=9"),
        ("modern_char", "modern-short-1", "seed=1", "budget.steps=4"),
        ("modern_char", "modern-2", "seed=2", "budget.steps=9"),
    ]


@pytest.mark.slow
def test_peaks_of_memory_are_within_15_percent_of_what_was_planned(tmp_path: Path) -> None:
    bench("plan_memory.py", "--quick", "--out", str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())["combinations"]
    assert len(found) == 2
    for row in found.values():
        assert row["planned_mb"] == pytest.approx(row["peak_mb"], rel=0.15)


@pytest.mark.slow
def test_adapters_of_two_libraries_learn_alike_and_pictures_are_drawn_of_results_alone(tmp_path: Path) -> None:
    shape = ["n_layer=1", "n_head=1", "n_embd=32", "block_size=16", "vocab_size=64"]
    results, names = tmp_path / "results", ["full", "dora", "peft dora"]
    found = str(results / "adapters-here.json")
    asked = ["--repeats", "2", "--batch", "512", "--shape", *shape]  # whose logits alone have 2 MB
    bench("adapters.py", *asked, "--out", found, "--candidates", *names)
    (work,) = json.loads(Path(found).read_text())["workloads"]
    ours, theirs = (work["candidates"][name] for name in names[1:])
    assert not work["left_out"] and ours["trained"] == theirs["trained"]
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5) and ours["losses"][2] < ours["losses"][0]
    assert ours["tokens_per_cpu_second"]["repeats"] == 2 and ours["peak_mb"] > 2
    for name in ("classify", "preference"):
        (results / f"{name}-here.json").symlink_to(FOLDER / f"results/{name}-2-cores.json")
    drawn = bench("adapting_pictures.py", "--results", str(results), "--out", str(tmp_path / "docs"))
    assert len(drawn.split()) == 3
    for path in map(Path, drawn.split()):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_a_dial_is_tuned_one_factor_after_the_other_and_judged_by_fresh_seeds(
    side_by_side: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import dial  # type: ignore[import-not-found]

    asked: list[int] = []

    def loss(depth: int, setting: dict[str, float], seed: int) -> float:
        asked.append(seed)
        rate = math.log2(setting["optimizer.lr"] / dial_rate)
        batch, decay = math.log2(setting["data.batch_size"] / 8), math.log2(setting["optimizer.weight_decay"] / 0.1)
        best = (rate - 1) ** 2 / 10 + batch**2 / 10 + (decay + 3) ** 2 / 10_000  # decay gains too little to be changed
        return 2 + best + seed / 100 * (1 + rate / 10)

    dial_rate = 6e-4 * (768 / 32) ** 0.65
    bench = dial.Bench(tmp_path, dial.LADDER)
    monkeypatch.setattr(bench, "train", loss)
    found = bench.depth(2, 3)
    assert found["dial"] == pytest.approx(
        {"optimizer.lr": dial_rate, "data.batch_size": 8, "optimizer.weight_decay": 0.1}
    )
    assert found["tuned"]["optimizer.lr"] == pytest.approx(2 * dial_rate, rel=1e-3)
    assert (found["tuned"]["data.batch_size"], found["tuned"]["optimizer.weight_decay"]) == (8, 0.1)
    assert asked[-6:] == [2, 3, 4, 2, 3, 4] and set(asked[:-6]) == {1}
    each = [loss(2, found["dial"], seed) - loss(2, found["tuned"], seed) for seed in (2, 3, 4)]
    assert found["above"] == pytest.approx(sum(each) / 3)
    error = 4.302652729911275 * np.std(each, ddof=1) / math.sqrt(3)  # Student's t of two degrees of freedom
    assert found["interval"] == pytest.approx([found["above"] - error, found["above"] + error])
