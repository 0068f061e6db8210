"""A gate over runs that are made up: what it runs, when it stops, what it remembers, and what it refuses."""

import json
import multiprocessing
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.commands.gate import gate
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.errors import RunFailed, UserError
from gptlab.sweep import paired
from gptlab.training.run import train
from tests.conftest import tiny_overrides, working_in, write_texts
from tests.forked import gptlab
from tests.waiting import wait_until

Answer = dict[str, Any]


@pytest.fixture(scope="module")
def trained_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    with working_in(folder):
        texts = write_texts(folder / "texts")
        train(compose("train", [*tiny_overrides(texts), f"run_dir={folder}/run", "budget.steps=1"]))
    return folder / "run"


class Runs:
    """Runs that are not trained: the score of each is its side's mean and the luck of its seed."""

    def __init__(self, gain: float) -> None:
        self.gain, self.asked, self.dies_after, self.fails = gain, list[str](), 10**9, False

    def trained(self, side: Any, run_dir: Path, seed: int) -> Answer:
        if len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(run_dir.name)
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        failed = self.fails and "changed" in run_dir.name
        return {"status": "failed", "error": "out of memory"} if failed else {"status": "finished"}

    def scored(self, side: Any, run_dir: Path, texts: Sequence[Path]) -> list[float | None]:
        assert [path.name for path in texts] == ["decides", "reports"] and all(path.is_dir() for path in texts)
        luck = random.Random(run_dir.name.partition("-")[2]).gauss(0, 0.01)
        mean = 2.0 - (self.gain if "changed" in run_dir.name else 0)
        return [mean + luck, mean + 0.1 + luck]


@pytest.fixture
def made_up(trained_base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Runs, Callable[..., Answer]]]:
    """Return runs of a gain, and a gate over them."""

    def made_up(gain: float) -> tuple[Runs, Callable[..., Answer]]:
        runs = Runs(gain)
        monkeypatch.setattr(paired, "trained", runs.trained)
        monkeypatch.setattr(paired, "scored", runs.scored)

        def ask(*overrides: str, change: str = "[optimizer.lr=3e-3]") -> Answer:
            answer = gate(compose("gate", [f"base={trained_base}", f"try={change}", "ledger=gate", *overrides]))
            assert answer is not None
            return answer

        return runs, ask

    return made_up


MadeUp = Callable[[float], tuple[Runs, Callable[..., Answer]]]


@pytest.mark.slow
def test_a_useful_change_is_kept_and_never_tried_again(made_up: MadeUp) -> None:
    runs, ask = made_up(0.06)
    answer = ask()
    assert answer["verdict"] == "kept" and answer["trial"] == 1 and answer["kept"] == 1
    assert answer["level"] == pytest.approx(0.05 * 0.9 / 100) and answer["ratio"] > 1 / answer["level"]
    pairs = answer["pairs"]
    assert runs.asked[:6] == [
        f"1-{s}-{n}"
        for n, s in (
            (1338, "base"),
            (1338, "changed"),
            (1339, "changed"),
            (1339, "base"),
            (1340, "base"),
            (1340, "changed"),
        )
    ]
    assert len(runs.asked) == 2 * pairs and answer["interval"][0] < answer["difference"] < answer["interval"][1] < 0
    assert answer["reports"]["difference"] == pytest.approx(answer["difference"])
    assert answer["reports"]["base"] == pytest.approx(2.1, abs=0.02)
    assert not list(Path("gate/runs").glob("*/checkpoints"))
    again = ask()
    assert again == answer and len(runs.asked) == 2 * pairs
    other = ask(change="[optimizer.lr=4e-3]")  # its seeds are fresh, and its level higher
    seeds = {int(run["seed"]) for run in other["sequence"]}
    assert min(seeds) == 1338 + 20 and other["level"] == pytest.approx(2 * answer["level"])


def test_a_useless_change_is_rejected(made_up: MadeUp) -> None:
    _, ask = made_up(0.0)
    answer = ask()
    assert answer["verdict"] == "rejected" and answer["ratio"] < 0.1 and answer["kept"] == 0


def test_too_few_seeds_leave_it_undecided(made_up: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    _, ask = made_up(0.06)
    answer = ask("max_seeds=2", "keep_checkpoints=true")
    assert answer["verdict"] == "undecided" and answer["pairs"] == 2
    said = capsys.readouterr().out
    assert "it is kept where the likelihood ratio reaches 2,222\n" in said
    ask("ledger=few", "alpha=0.5", "planned=1", "max_seeds=2")
    assert "it is kept where the likelihood ratio reaches 2.22\n" in capsys.readouterr().out
    assert "undecided after 2 pairs" in said and "\n1 pair of runs\n" in said and "0 pairs" not in said
    assert len(list(Path("gate/runs").glob("*/checkpoints"))) == 4


def test_a_change_that_fails_is_rejected_and_a_base_that_fails_is_not_its_fault(
    made_up: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, ask = made_up(0.06)
    runs.fails = True
    answer = ask()
    assert answer["verdict"] == "rejected" and answer["error"] == "out of memory" and len(runs.asked) == 2
    assert answer["reports"] is None
    runs.fails, scored = False, runs.scored
    paired.scored = lambda side, run_dir, texts: (  # a run that ends, with weights that are not finite
        [None, None] if "changed-1361" in str(run_dir) else scored(side, run_dir, texts)
    )
    diverged = ask(change="[optimizer.lr=4e-3]")
    assert diverged["verdict"] == "rejected" and diverged["error"] == "its score is not finite with seed 1361"
    assert "rejected after 3 pairs; the change fails: its score is not finite with seed 1361." in (
        capsys.readouterr().out
    )

    def base_fails(side: Any, run_dir: Path, seed: int) -> Answer:
        return {"status": "failed", "error": "no memory"}

    runs.trained = base_fails  # type: ignore[method-assign]
    paired.trained = base_fails
    with pytest.raises(RunFailed, match="the base fails with seed 1378: no memory"):
        ask(change="[optimizer.lr=5e-3]")


@pytest.mark.slow
def test_killed_after_any_run_it_goes_on(made_up: MadeUp) -> None:
    runs, ask = made_up(0.06)
    right = ask("ledger=whole")
    runs.asked.clear()
    for dies_after in (1, 2, 5):
        runs.dies_after = dies_after
        with pytest.raises(KeyboardInterrupt):
            ask("ledger=killed")
        path = Path("killed/ledger.jsonl")
        path.write_bytes(path.read_bytes()[: -(dies_after % 3) or None])  # a line that was not finished
    runs.dies_after = 10**9
    found = ask("ledger=killed")
    for answer in (found, right):
        answer.pop("ledger")
    assert found == right


@pytest.mark.slow
def test_what_it_refuses(made_up: MadeUp, trained_base: Path, tmp_path: Path) -> None:
    runs, ask = made_up(0.06)
    config = trained_base / "config.yaml"
    for change, told in {
        "[]": "try=[]: names no change",
        "[seed=3]": "try=[seed=3]: seed is the same on both sides",
        "[budget.steps=9]": "try=[budget.steps=9]: budget.steps is the same on both sides",
        "[data=bundled]": "try=[data=bundled]: data changes the text by which both sides are judged",
        "[data.val_fraction=0.2]": "try=[data.val_fraction=0.2]: data.val_fraction changes the text",
        "[name=other]": "changes nothing in the config of the base",
        "[data.batch_size=4]": "changes nothing in the config of the base",
        "[task=classification]": "task",
    }.items():
        with pytest.raises(UserError) as error:
            ask(change=change)
        assert told in str(error.value), (change, str(error.value))
    assert not Path("gate").exists() and not runs.asked
    ask()
    with pytest.raises(UserError, match=r"alpha=0.1: the ledger was begun with 0.05"):
        ask("alpha=0.1")
    with pytest.raises(
        UserError, match=r"^budget=budget.steps=2: the ledger was begun with that of the base; leave that, or"
    ):
        ask("budget.steps=2")
    with pytest.raises(UserError, match=r"^seed=4294967290: not all of the 20 seeds from it on are below 2\^32; give"):
        ask("seed=4294967290", change="[optimizer.lr=1e-2]")
    with pytest.raises(UserError, match=r"seed=1340: seeds from 1340 to 1357 were used already"):
        ask("seed=1340", change="[optimizer.lr=1e-2]")
    other = Path(shutil.copytree(trained_base, tmp_path / "other"))
    (other / "config.yaml").write_text(config.read_text().replace("n_embd: 16", "n_embd: 32"))
    with pytest.raises(UserError, match="is of another base"):
        ask(f"base={other}")
    before = config.read_text()
    config.write_text(before.replace("n_embd: 16", "n_embd: 32"))
    with pytest.raises(UserError, match="was begun with this base when it had another config or text"):
        ask()
    config.write_text(before)
    runs.dies_after = len(runs.asked) + 1
    with pytest.raises(KeyboardInterrupt):
        ask(change="[optimizer.lr=1e-2]")
    with pytest.raises(UserError, match=r"trial 2, optimizer.lr=1e-2, has no verdict yet; none is dropped"):
        ask(change="[optimizer.lr=2e-2]")
    runs.dies_after = 10**9
    (Path("gate/reports") / "00000.txt").write_text("other")
    with pytest.raises(UserError, match="its held-out text has changed"):
        ask(change="[optimizer.lr=1e-2]")


def test_exit_codes_and_the_answer_in_json(
    made_up: MadeUp, trained_base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for gain, code, verdict in ((0.06, 0, "kept"), (0.0, 3, "rejected")):
        made_up(gain)
        asked = ["gate", f"base={trained_base}", "try=[optimizer.lr=3e-3]", f"ledger=gate-{gain}", "json=true"]
        assert main(asked) == code
        assert json.loads(capfd.readouterr().out)["verdict"] == verdict
    assert main([*asked[:-1], "max_seeds=1"]) == 2


def test_a_score_of_a_run_that_has_diverged_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this version, whose JSON has null for what is not finite, and by a revision whose JSON has NaN."""
    said = {"stdout": "", "stderr": ""}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(**said))
    texts = [Path("decides"), Path("reports")]
    for answers, scores in {
        '{"bits_per_byte": 2.5, "loss": 1.5}, {"bits_per_byte": null, "loss": null}': [2.5, None],
        '{"bits_per_byte": 2.5, "loss": 1.5}, {"bits_per_byte": NaN, "loss": NaN}': [2.5, None],
    }.items():
        said["stdout"] = f'{{"runs": [{answers}]}}\n'
        assert paired.scored(paired.Side(Path("c"), []), Path("run"), texts) == scores
    said["stdout"] = '{"runs": [{"bits_per_byte": null, "loss": 1.5}]}\n'
    with pytest.raises(RunFailed, match="its tokenizer does not spell all of the held-out text"):
        paired.scored(paired.Side(Path("c"), []), Path("run"), texts)


PLUGIN = """
from dataclasses import dataclass

import gptlab
from gptlab.optim.optimizers import AdamW


@gptlab.option("optimizer", "mine")
@dataclass
class Mine(AdamW):
    def build(self, *given, **named):
        BEFORE
        return super().build(*given, **named)
"""


@pytest.mark.slow
def test_real_runs_of_a_revision_killed_and_gone_on_with(texts: str) -> None:
    """The code of another revision has an optimizer that fails; the gate is killed in its first run, that of the base."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    Path("gptlab.toml").write_text('plugins = ["mine_lab"]\n')
    Path(".gitignore").write_text("*\n!mine_lab.py\n!gptlab.toml\n")
    Path("mine_lab.py").write_text(PLUGIN.replace("BEFORE", "raise RuntimeError('of the revision')"))
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "it fails"]):
        subprocess.run([*git, *command], check=True)
    Path("mine_lab.py").write_text(PLUGIN.replace("BEFORE", "pass"))
    own = ["optimizer=mine", "run_dir=base"]
    gptlab("train", *tiny_overrides(texts), *own)
    asked = ["gate", "base=base", "revision=HEAD", "ledger=gate", "json=true"]
    killed = multiprocessing.get_context("fork").Process(target=main, args=(asked,))
    killed.start()
    wait_until(lambda: list(Path("gate").glob("runs/*/job.log")) or not killed.is_alive(), 120)
    assert killed.is_alive()
    killed.kill()
    killed.join()
    answer = json.loads(gptlab(*asked, code=3).stdout)
    assert answer["verdict"] == "rejected"
    assert answer["error"] == "RuntimeError: of the revision" and answer["differs"] == {}
    assert answer["change"][0].startswith("revision=")
    (base,) = (run for run in answer["sequence"] if run["side"] == "base")
    assert 0 < base["decides"] < 20 and 0 < base["reports"] < 20
    Path("mine_lab.py").write_text(PLUGIN.replace("BEFORE", "raise RuntimeError('of the revision')"))
    again = gptlab(*asked[:-1], "revision=HEAD", code=2)
    assert "is the code that is here: it changes nothing" in again.stderr
