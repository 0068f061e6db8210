"""The commands as a user types them, in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gptlab
from tests.conftest import ROOT, heeds_ctrl_c, tiny_overrides

pytestmark = pytest.mark.slow
GPTLAB = [str(Path(sys.executable).with_name("gptlab"))]
TRAIN = [sys.executable, str(ROOT / "train.py")]


def run(command: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_train_sample_evaluate_from_any_folder(texts: str, tmp_path: Path) -> None:
    trained = run([*TRAIN, *tiny_overrides(texts)])
    assert trained.stderr == ""
    for words in ("val loss", "bits/byte", "tokens/s", "greedy: the cat", "tensorboard --logdir outputs"):
        assert words in trained.stdout
    suggested = [line.strip() for line in trained.stdout.splitlines() if line.startswith("  gptlab")]
    assert len(suggested) == 2
    for command in suggested:  # what it tells people to type works
        subprocess.run(
            command.replace("gptlab", GPTLAB[0], 1), shell=True, check=True, capture_output=True, timeout=300
        )
    sampled = json.loads(run([*GPTLAB, "sample", "prompt=the cat", "max_new_tokens=5", "json=true"]).stdout)
    assert set(sampled["samples"][0]) == {"prompt", "text", "ids", "logprob", "logprobs"}
    scored = json.loads(run([*GPTLAB, "evaluate", "run=outputs/latest", "json=true"]).stdout)
    summary = json.loads(Path("outputs/latest/summary.json").read_text())
    assert scored["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)


def test_a_sweep_of_decoders_ends_in_one_table(texts: str) -> None:
    run([*TRAIN, *tiny_overrides(texts)])
    done = run([*GPTLAB, "sample", "-m", "decoder=greedy,sample", "num_samples=2", "max_new_tokens=9", "json=true"])
    greedy, drawn, summary = json.loads(done.stdout)["runs"]
    assert (greedy["decoder"], drawn["decoder"]) == ("Greedy()", "Sample(temperature=1.0)")
    assert [row["decoder"] for row in summary["frontier"]] == ["greedy", "sample"]
    assert "self-BLEU" in done.stderr and Path("outputs/latest/frontier.html").is_file()


def test_train_prints_one_json_object(texts: str) -> None:
    done = run([*GPTLAB, "train", *tiny_overrides(texts), "json=true"])
    assert json.loads(done.stdout) == json.loads(Path("outputs/latest/summary.json").read_text())
    assert "val loss" in done.stderr


def test_two_devices_see_the_same_batches_as_one(texts: str, tmp_path: Path) -> None:
    rows = {}
    for devices in (1, 2):
        out = run(
            [*TRAIN, *tiny_overrides(texts), f"trainer.devices={devices}", f"run_dir={tmp_path}/{devices}", "json=true"]
        )
        rows[devices] = json.loads(out.stdout)
        if devices == 2:
            assert "on 2 x cpu" in out.stderr and out.stderr.count("parameters:") == 1
    for key in ("train_loss", "val_loss", "val_bits_per_byte"):
        assert rows[2][key] == pytest.approx(rows[1][key], abs=2e-6)
    assert rows[1]["tokens"] == rows[2]["tokens"]
    one, two = (torch.cat([p.flatten() for p in gptlab.load(tmp_path / d)[0].parameters()]) for d in ("1", "2"))
    assert (one - two).abs().max() < 1e-4


def test_a_sweep(texts: str) -> None:
    done = run([*TRAIN, "-m", *tiny_overrides(texts), "model.n_layer=1,2", "optimizer.lr=1e-3,3e-4", "json=true"])
    runs = json.loads(done.stdout)["runs"]
    assert len({r["val_loss"] for r in runs}) == 4
    folders = {Path(r["run_dir"]) for r in runs}
    assert len(folders) == 4 and len({f.parent for f in folders}) == 1
    for folder in folders:
        assert (folder / "summary.json").exists() and len(folder.name) < 200
    assert Path("outputs/latest").resolve() == Path(runs[-1]["run_dir"])


def test_a_sweep_goes_on_after_a_mistake(texts: str) -> None:
    done = run([*TRAIN, "-m", *tiny_overrides(texts), "model.n_head=7,2", "json=true"], code=2)
    runs = json.loads(done.stdout)["runs"]
    assert [r["status"] for r in runs] == ["refused", "finished"]
    assert runs[0]["error"].startswith("model.n_head=7: does not divide n_embd=16")


def test_a_run_s_config_repeats_it(texts: str) -> None:
    first = json.loads(run([*TRAIN, *tiny_overrides(texts), "decoder=greedy", "json=true"]).stdout)
    saved = ["--config-dir", first["run_dir"], "--config-name", "config", "json=true"]
    second = json.loads(run([*GPTLAB, "train", *saved]).stdout)
    assert second["run_dir"] != first["run_dir"]
    assert second["val_loss"] == first["val_loss"] and second["train_loss"] == first["train_loss"]


def test_ctrl_c_and_sigterm(texts: str) -> None:
    for number, how in enumerate((signal.SIGINT, signal.SIGTERM)):
        folder = Path(f"stopped-{number}")
        overrides = [*tiny_overrides(texts), "budget.steps=100000", f"run_dir={folder}"]
        process = subprocess.Popen(
            [*TRAIN, *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heeds_ctrl_c,
        )
        deadline = time.monotonic() + 120
        while not (folder / "samples.md").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(process.pid, how)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 1 and "Traceback" not in out, out
        assert "stopped at step" in out
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "stopped" and summary["steps"] > 0
        gptlab.load(folder)


def test_tab_completion() -> None:
    env = os.environ | {"COMP_LINE": "train.py model=", "COMP_POINT": "15"}
    done = subprocess.run([*TRAIN, "-sc", "query=bash"], capture_output=True, text=True, env=env, check=False)
    assert "model=nano" in done.stdout and "model=xl" in done.stdout


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("gptlab ", {"train", "report"}, {"model="}),
        ("gptlab tr", {"train"}, {"model="}),  # bash keeps those that begin so
        ("gptlab sample ", {"decoder=", "prompt="}, {"train", "budget."}),
        ("gptlab  train debug=", {"debug=nan", "debug=fast"}, {"train"}),
        ("gptlab train model=micro budget.", {"budget.minutes=", "budget.steps="}, {"train"}),
        ("gptlab tarin model=", set(), {"train"}),
    ],
)
def test_tab_completion_of_verbs_and_of_what_they_take(line: str, offered: set[str], not_offered: set[str]) -> None:
    ask = [sys.executable, "-m", "gptlab.cli", "-sc", "query=bash"]
    env = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(ask, capture_output=True, text=True, env=env, check=True)
    assert offered <= set(done.stdout.split()) and not not_offered & set(done.stdout.split())


@pytest.mark.usefixtures("gpt2_cache")
def test_the_verdict_is_learned_by_heart(real_data: Path) -> None:
    """Overfitting as the book shows it: training loss towards zero, validation loss above 6."""
    url = f"data.url=file://{real_data}/the-verdict.txt"
    summary = json.loads(run([*TRAIN, "experiment=verdict", url, "json=true"]).stdout)
    assert summary["train_loss"] < 0.1
    assert summary["val_loss"] > 6


def test_shakespeare_by_characters(real_data: Path) -> None:
    url = f"data.url=file://{real_data}/tinyshakespeare.txt"
    done = run([*TRAIN, "experiment=shakespeare_char", url, "budget.steps=100", "json=true"])
    assert json.loads(done.stdout)["val_loss"] < 2.9
    assert "67 tokens" in done.stderr  # 65 characters, the document separator and the unknown one
