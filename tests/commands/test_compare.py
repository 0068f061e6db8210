import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.evaluation.sequential import Samples, confidence_sequence
from gptlab.evaluation.statistics import seeds_needed
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import save_by_hand

Tiny = Callable[..., TrainConfig]
BPE = ["tokenizer=bpe", "tokenizer.vocab_size=300"]


def runs(tiny: Tiny, tmp_path: Path, **overrides: list[str]) -> None:
    for name, more in overrides.items():
        train(tiny("data.val_fraction=0.3", f"run_dir={tmp_path}/{name}", *more))


def ask(*overrides: str) -> dict[str, Any]:
    return compare(compose("compare", list(overrides)))


@pytest.mark.slow
def test_two_runs(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tiny, tmp_path, one=[], two=["optimizer.lr=0.02", "budget.steps=12"])
    capsys.readouterr()
    result = ask("a=one", "b=two")
    said = capsys.readouterr().out
    scores = [evaluate(compose("evaluate", [f"run={name}"])) for name in ("one", "two")]
    for record, score in zip(result["runs"], scores, strict=True):
        assert record["bits_per_byte"] == pytest.approx(score["bits_per_byte"], rel=1e-6)
        assert record["loss"] == pytest.approx(score["loss"], rel=1e-6)
        assert (record["tokens"], result["bytes"]) == (score["tokens"], score["bytes"])
        assert record["protocol"]["block_size"] == record["protocol"]["stride"] == 32
        assert len(record["tokenizer_hash"]) == len(record["data_hash"]) == 64
    gap = scores[1]["bits_per_byte"] - scores[0]["bits_per_byte"]
    found = result["difference"]
    assert found["value"] == pytest.approx(gap, abs=2e-6) and found["low"] < gap < found["high"] < 0
    assert result["nats_per_byte"]["value"] == pytest.approx(gap * math.log(2), abs=2e-6)
    assert "b is better over 12 documents (3,213 bytes)" in said and "not about their configs" in said
    assert (result["seed_test"], result["noise_floor"], result["seeds_needed"]) == (None, None, None)
    assert "noise floor: unknown" in said

    stored = json.loads(Path("one/compare/two.json").read_text())
    assert result["out"] == "one/compare/two.json"
    assert {key: value for key, value in stored.items() if key != "per_unit"} == {
        k: v for k, v in result.items() if k != "out"
    }
    per_unit = {key: np.array(value) for key, value in stored["per_unit"].items()}
    assert per_unit["bytes"].sum() == result["bytes"] and len(per_unit["bytes"]) == result["units"]["number"]
    assert (per_unit["nats_b"] - per_unit["nats_a"]).sum() / result["bytes"] == pytest.approx(
        gap * math.log(2), abs=2e-6
    )
    rng, n = np.random.default_rng(0), len(per_unit["bytes"])
    rows = rng.integers(0, n, (4000, n))
    drawn = (per_unit["nats_b"] - per_unit["nats_a"])[rows].sum(1) / per_unit["bytes"][rows].sum(1) / math.log(2)
    assert [found["low"], found["high"]] == pytest.approx(
        np.quantile(drawn, [0.025, 0.975]), abs=0.2 * np.ptp(drawn) / 4
    )


@pytest.mark.slow
def test_several_seeds(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = {
        f"{side}{seed}": [f"seed={seed}", f"model.n_embd={width}"]
        for side, width in (("x", 16), ("y", 32))
        for seed in (1, 2, 3)
    }
    runs(tiny, tmp_path, **seeds)
    capsys.readouterr()
    result = ask("a=x*", "b=[y1,y2,y3]", "out=result.json")
    assert [Path(record["run"]).name for record in result["runs"]] == list(seeds) and Path("result.json").exists()
    a, b = ([r["bits_per_byte"] for r in result["runs"] if r["side"] == side] for side in "ab")
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert result["seed_test"]["p"] == pytest.approx(expected.pvalue)
    assert result["seed_test"]["difference"]["value"] == pytest.approx(np.mean(b) - np.mean(a))
    assert result["difference"]["value"] == pytest.approx(np.mean(b) - np.mean(a))
    deviation = math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)
    assert result["noise_floor"]["deviation"] == pytest.approx(deviation)
    assert result["seeds_needed"] == seeds_needed(np.mean(b) - np.mean(a), deviation)
    said = capsys.readouterr().out
    assert (
        "Welch's t-test" in said
        and "these by" not in said
        and "(the runs given)" in said
        and "differ in more" not in said
    )
    # a verdict for whenever one stops, of single seeds and of pairs of them
    low, high = confidence_sequence(Samples(float(np.mean(b) - np.mean(a)), deviation, 1.5, 4))
    told = result["over_seeds"]
    assert (told["low"], told["high"], told["paired"]) == (pytest.approx(low), pytest.approx(high), False)
    assert told["verdict"] == ("b" if high < 0 else "a" if low > 0 else "go_on")
    assert f"whenever you stop: 95% interval {low:+.4f} to {high:+.4f}: " in said and "seeds needed" not in said
    by_pairs = ask("a=x*", "b=y*", "paired=true", "margin=100", "out=pairs.json")["over_seeds"]
    assert by_pairs["verdict"] == "same" and by_pairs["paired"]
    low, high = confidence_sequence(
        Samples(float(np.mean(b) - np.mean(a)), float(np.std(np.subtract(b, a), ddof=1)), 3, 2)
    )
    assert (by_pairs["low"], by_pairs["high"]) == (pytest.approx(low), pytest.approx(high))
    assert "stop: no difference above 100.0 bits per byte" in capsys.readouterr().out
    with pytest.raises(UserError, match="^paired=true: needs the same seeds on both sides, and a has 1, 2, 3, b 1, 2;"):
        ask("a=x*", "b=[y1,y2]", "paired=true")

    single = ask("a=x1", "b=y2")  # seeds that stand beside them tell the noise
    scores = [
        [json.loads(Path(f"{side}{i}/summary.json").read_text())["val_bits_per_byte"] for i in (1, 2, 3)]
        for side in "xy"
    ]
    beside = math.sqrt(np.mean([np.var(each, ddof=1) for each in scores]))
    assert single["noise_floor"]["deviation"] == pytest.approx(beside, rel=1e-4)
    assert "by chance (95%), these by " in capsys.readouterr().out
    assert single["noise_floor"]["seeds"] == "6 runs beside them" and single["seed_test"] is None
    assert ask("a=x1", "b=x3")["noise_floor"]["seeds"] == "3 runs beside them"
    capsys.readouterr()
    ask("a=[x1,y1]", "b=[y1,y2]")
    assert "The runs of a differ in more than the seed: model.n_embd, optimizer.lr." in capsys.readouterr().out


@pytest.mark.slow
def test_different_tokenizers(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tiny, tmp_path, bytes=[], pairs=BPE)
    capsys.readouterr()
    result = ask("a=bytes", "b=pairs")
    scores = [evaluate(compose("evaluate", [f"run={name}"])) for name in ("bytes", "pairs")]
    assert result["difference"]["value"] == pytest.approx(
        scores[1]["bits_per_byte"] - scores[0]["bits_per_byte"], abs=2e-6
    )
    assert result["perplexity_refused"] == "there are 2 tokenizers"
    said = capsys.readouterr().out
    assert "Perplexities do not compare: there are 2 tokenizers; bits per byte do." in said
    assert "perplexity" not in said.split("b - a")[0]
    with pytest.raises(UserError, match=r"^metric=perplexity: .+ 2 tokenizers; .+ metric=bits_per_byte$"):
        ask("a=bytes", "b=pairs", "metric=perplexity")


@pytest.mark.slow
def test_perplexity_of_one_protocol(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tiny, tmp_path, short=[], long=["model.block_size=64"])
    with pytest.raises(
        UserError, match=r"the protocols differ \(block_size 32 and 64\); compare bits per byte instead"
    ):
        ask("a=short", "b=long", "metric=perplexity")
    result = ask("a=short", "b=long", "metric=perplexity", "block_size=32")
    scores = [evaluate(compose("evaluate", [f"run={name}", "block_size=32"])) for name in ("short", "long")]
    assert result["perplexity_ratio"]["value"] == pytest.approx(scores[1]["perplexity"] / scores[0]["perplexity"])
    assert result["difference"]["value"] == pytest.approx(scores[1]["loss"] - scores[0]["loss"], abs=2e-6)
    assert result["unit"] == "nats per token" and "nats per token" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_itself_and_a_checkpoint(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs(tiny, tmp_path, one=["optimizer.lr=1", "schedule=constant", "trainer.val_every_n_steps=1"])
    same = ask("a=one", "b=one")
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0} and same["seeds_needed"] is None
    assert "too close to call" in capsys.readouterr().out
    best = ask("a=one", "b=one/checkpoints/best.ckpt")
    assert best["difference"]["high"] < 0 and best["out"] == "one/compare/one-best.json"


def test_too_little_text(tiny: Tiny, tmp_path: Path) -> None:
    runs(tiny, tmp_path, one=[])
    (tmp_path / "short.txt").write_text("the cat sat on the mat and saw one red bird")
    with pytest.raises(UserError, match="^data=held-out: its 43 bytes are too few"):
        ask("a=one", "b=one", "data=text", "data.files=[short.txt]", "data.val_fraction=1")


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["a=two-*", "b=one"], r"a=two-\*: no such directory; "),
        (["b=one"], r"a=null: is needed; give a=RUN"),
        (["a=[]", "b=one"], r"a=\[\]: is empty; "),
        (["a=one", "b=one", "metric=joy"], "metric=joy: no such option; choose one of loss, perplexity, bits_per_byte"),
        (["a=one", "b=one", "resamples=9"], "resamples=9: is too few; "),
        (["a=one", "b=one", "batch_size=0"], "batch_size=0: must be at least 1; "),
        (["a=one", "b=one", "block_size=0"], "block_size=0: must be at least 1; "),
    ],
)
def test_mistakes(overrides: list[str], why: str) -> None:
    with pytest.raises(UserError, match=f"^{why}"):
        ask(*overrides)


def test_mistakes_about_a_run(tiny: Tiny, tmp_path: Path) -> None:
    runs(tiny, tmp_path, one=["budget.steps=1"])
    with pytest.raises(UserError, match="^b=none: no such directory; "):
        ask("a=one", "b=none")
    with pytest.raises(UserError, match="^block_size=99: is more than the 32 positions"):
        ask("a=one", "b=one", "block_size=99")


def test_long_names_leave_room_for_figures(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "4-optimizer.lr_0.003," * 5
    runs(tiny, tmp_path, one=["budget.steps=1"])
    (tmp_path / "one").rename(tmp_path / name)
    capsys.readouterr()
    result = ask(f"a='{name}'", f"b='{name}'")
    line = next(line for line in capsys.readouterr().out.splitlines() if "4-opt" in line)
    record = result["runs"][0]
    figures = [f"{record[key]:.4f}" for key in ("nats_per_byte", "bits_per_byte", "loss")]
    assert "…" in line and line.split()[2:5] == figures and len(line.rstrip()) <= 80


def test_a_model_that_has_diverged(tiny: Tiny, tmp_path: Path) -> None:
    runs(tiny, tmp_path, one=["budget.steps=1"])
    saved = torch.load("one/checkpoints/last.ckpt", weights_only=True)
    saved["state_dict"]["gpt.ln_f.weight"].fill_(math.nan)
    save_by_hand(saved, Path("one/checkpoints/last.ckpt"))
    with pytest.raises(UserError, match=r"^a=one/checkpoints/last.ckpt: its model gives no finite scores; "):
        ask("a=one", "b=one")


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UserError, match=r"needs scipy; pip install 'gptlab\[report\]'"):
        ask("a=one", "b=two")


@pytest.mark.slow
def test_a_run_that_was_moved(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    """A run directory is whole: nothing else is needed."""
    runs(tiny, tmp_path, one=[], two=["seed=2"])
    for gone in ("texts", "cache"):
        shutil.rmtree(tmp_path / gone)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert ask("a=moved", "b=two")["documents"] > 5
