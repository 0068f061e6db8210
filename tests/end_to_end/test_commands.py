"""The commands as a user types them, in processes of their own."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptlab import load
from gptlab.files import followed
from tests.conftest import ROOT, start, tiny_overrides, working_in, write_texts
from tests.forked import gptlab

pytestmark = pytest.mark.slow
GPTLAB = [str(Path(sys.executable).with_name("gptlab"))]
TRAIN = [sys.executable, str(ROOT / "train.py")]


Done = subprocess.CompletedProcess[str]


def run(command: list[str], code: int = 0) -> Done:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """Return the folder in which a run was trained, and the output of the command."""
    folder = tmp_path_factory.mktemp("first")
    with working_in(folder):
        return folder, run([*TRAIN, *tiny_overrides(write_texts(folder / "texts"))])


@pytest.fixture
def trained(first: tuple[Path, Done], monkeypatch: pytest.MonkeyPatch) -> Done:
    """Return the output of the training command, in its folder."""
    folder, done = first
    monkeypatch.chdir(folder)
    return done


def test_train_sample_evaluate_from_any_folder(trained: Done) -> None:
    assert trained.stderr == ""
    for words in ("val loss", "bits/byte", "tokens/s", "greedy: the cat", "tensorboard --logdir outputs"):
        assert words in trained.stdout
    suggested = [line.strip() for line in trained.stdout.splitlines() if line.startswith("  gptlab")]
    assert len(suggested) == 2
    for command in suggested:  # what it tells people to type works
        subprocess.run(
            command.replace("gptlab", GPTLAB[0], 1), shell=True, check=True, capture_output=True, timeout=900
        )
    sampled = json.loads(gptlab("sample", "prompt=the cat", "max_new_tokens=5", "json=true").stdout)
    assert set(sampled["samples"][0]) == {"prompt", "text", "ids", "logprob", "logprobs"}
    scored = json.loads(gptlab("evaluate", "run=outputs/latest", "json=true").stdout)
    summary = json.loads(followed(Path("outputs/latest/summary.json")).read_text())
    assert scored["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)


@pytest.mark.usefixtures("trained")
def test_a_sweep_of_decoders_ends_in_one_table() -> None:
    done = gptlab("sample", "-m", "decoder=greedy,sample", "num_samples=2", "max_new_tokens=9", "json=true")
    greedy, drawn, summary = json.loads(done.stdout)["runs"]
    assert (greedy["decoder"], drawn["decoder"]) == ("Greedy()", "Sample(temperature=1.0)")
    assert [row["decoder"] for row in summary["frontier"]] == ["greedy", "sample"]
    assert "self-BLEU" in done.stderr and followed(Path("outputs/latest/frontier.html")).is_file()


def test_train_prints_one_json_object_and_its_config_repeats_it(texts: str) -> None:
    done = gptlab("train", *tiny_overrides(texts), "decoder=greedy", "json=true")
    first = json.loads(done.stdout)
    assert first == json.loads(followed(Path("outputs/latest/summary.json")).read_text())
    assert "val loss" in done.stderr
    saved = ["--config-dir", first["run_dir"], "--config-name", "config", "json=true"]
    second = json.loads(gptlab("train", *saved).stdout)
    assert second["run_dir"] != first["run_dir"]
    assert second["val_loss"] == first["val_loss"] and second["train_loss"] == first["train_loss"]


def test_a_sweep_goes_on_after_a_mistake(texts: str) -> None:
    done = gptlab("train", "-m", *tiny_overrides(texts), "model.n_head=7,2", "json=true", code=2)
    runs = json.loads(done.stdout)["runs"]
    assert [r["status"] for r in runs] == ["refused", "finished"]
    assert runs[0]["error"].startswith("model.n_head=7: does not divide n_embd=16")


def test_ctrl_c(texts: str) -> None:
    overrides = [*tiny_overrides(texts), "budget.steps=100000", "run_dir=stopped"]
    process = start([*TRAIN, *overrides], stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not Path("stopped/samples.md").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in out, out
    assert "stopped at step" in out
    summary = json.loads(Path("stopped/summary.json").read_text())
    assert summary["status"] == "stopped" and summary["steps"] > 0
    load("stopped")


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
    ask = [sys.executable, "-m", "gptlab", "-sc", "query=bash"]
    env = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    done = subprocess.run(ask, capture_output=True, text=True, env=env, check=True)
    assert offered <= set(done.stdout.split()) and not not_offered & set(done.stdout.split())


def test_the_verdict_is_learned_by_heart(real_data: Path) -> None:
    """Overfitting as the book shows it: training loss towards zero, validation loss above 6.

    The recipe's own model, optimizer and steps; of its tokens there are 2,000 instead of GPT-2's 50,257, whose logits
    would take nine tenths of the time.
    """
    few = ["tokenizer=bpe", "tokenizer.vocab_size=2000", "trainer.val_every_n_steps=310"]
    url = f"data.url=file://{real_data}/the-verdict.txt"
    summary = json.loads(gptlab("train", "experiment=verdict", url, *few, "json=true").stdout)
    assert summary["train_loss"] < 0.1
    assert summary["val_loss"] > 6


def test_shakespeare_by_characters(real_data: Path, tmp_path: Path) -> None:
    """On a tenth of the plays, after a line with all of their characters."""
    plays = (real_data / "tinyshakespeare.txt").read_text()
    (tmp_path / "plays.txt").write_text("".join(sorted(set(plays))) + "\n" + plays[: len(plays) // 10])
    sha256 = hashlib.sha256((tmp_path / "plays.txt").read_bytes()).hexdigest()
    source = [f"data.url=file://{tmp_path}/plays.txt", f"data.sha256={sha256}"]
    losses = {}
    for recipe in ("shakespeare_char", "modern_char"):
        done = gptlab("train", f"experiment={recipe}", *source, "budget.steps=60", "sample_prompts=[]", "json=true")
        losses[recipe] = json.loads(done.stdout)["val_loss"]
    assert losses["modern_char"] < losses["shakespeare_char"] - 0.2
    assert losses["shakespeare_char"] < 2.9
    assert "67 tokens" in done.stderr  # 65 characters, the document separator and the unknown one


def test_a_run_in_a_folder_of_any_name(texts: str) -> None:
    """Trained, resumed, repeated on two devices, swept, and its sweep resumed."""
    name = "a b=c, 'd' \"e\" (1) [2] {3} # & ; ~ Größe"
    ask = [*tiny_overrides(texts), "json=true"]
    assert json.loads(gptlab("train", *ask, f"run_dir={name}/one").stdout)["steps"] == 6
    assert json.loads(gptlab("train", f"resume={name}/one", "budget.steps=7", "json=true").stdout)["steps"] == 7
    again = [f"config={name}/one/config.yaml", f"run_dir={name}/two", "trainer.devices=2", "json=true"]
    assert json.loads(gptlab("train", *again).stdout)["steps"] == 7
    sampled = gptlab("sample", f"run={name}/two", "prompt=the cat", "max_new_tokens=2", "json=true")
    assert len(json.loads(sampled.stdout)["samples"]) == 1
    gptlab("train", "-m", *ask, "seed=1,2", f"hydra.sweep.dir={name}/sweep")
    assert json.loads(Path(name, "sweep/1-seed=2/summary.json").read_text())["status"] == "finished"
    gptlab("train", f"resume_sweep={name}/sweep", "json=true")


def test_a_run_in_a_folder_whose_name_is_a_number(texts: str) -> None:
    """Trained, resumed, repeated and sampled; the number is read as it is written."""
    assert json.loads(gptlab("train", *tiny_overrides(texts), "run_dir=1e5", "json=true").stdout)["steps"] == 6
    assert json.loads(gptlab("train", "resume=1e5", "budget.steps=7", "json=true").stdout)["steps"] == 7
    again = json.loads(gptlab("train", "config=1e5", "run_dir=1_0", "json=true").stdout)
    assert again["steps"] == 7 and {path.name for path in Path().glob("1*")} == {"1e5", "1_0"}
    sampled = gptlab("sample", "run=1e5", "prompt=the cat", "max_new_tokens=2", "json=true")
    assert len(json.loads(sampled.stdout)["samples"]) == 1
