"""A law is fitted to run directories as training leaves them, predicted from, and scored; what does not belong is told."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from gptlab.commands.scaling import ScalingConfig, scaling
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.planning.prediction import _hash
from gptlab.planning.scaling import Law
from tests.written_runs import MakeRun

LAW = Law(0.9, 60.0, 900.0, 0.3, 0.45)
SIZES, TOKENS = (1e5, 3e5, 1e6, 3e6), (1e6, 4e6, 1.6e7)


def ask(*overrides: str) -> dict[str, Any]:
    config = compose("scaling", list(overrides))
    assert isinstance(config, ScalingConfig)
    return scaling(config)


def run_of(make_run: MakeRun, name: str, parameters: float, tokens: float, off: float = 1.0, **more: Any) -> Path:
    summary = {"parameters": parameters, "tokens": tokens, "val_loss": off * float(LAW.loss(parameters, tokens))}
    return make_run(name, summary={**summary, "protocol": {"block_size": 32}, **more.pop("summary", {})}, **more)


@pytest.fixture
def ladder(make_run: MakeRun) -> None:
    for size in SIZES:
        for tokens in TOKENS:
            model = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 50_000}
            run_of(make_run, f"{size:.0f}-{tokens:.0f}", size, tokens, model=model)


def test_runs_give_the_law_that_they_follow(
    ladder: None, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("broken", None, "failed")
    make_run("far", summary={"parameters": 1e6, "tokens": 1e7, "val_loss": 9.0})  # of 257 ids: guessing has 5.549
    make_run("labels", parts={"task": "classification"})
    found = ask("runs=runs", "out=pics", "flops=[1e16]", "resamples=20")
    assert [found[name] for name in "EABab"] == pytest.approx(LAW, rel=1e-3)
    assert found["points"] == 12 and set(found["intervals"]) == set("EABab")
    why = {each["run"]: each["why"] for each in found["left_out"]}
    assert why == {"broken": "is failed", "far": "diverged", "labels": "its task does not predict tokens"}
    (best,) = found["best"]
    assert (best["parameters"], best["tokens"]) == pytest.approx(LAW.best_size(1e16), rel=1e-2)
    assert (tmp_path / "pics/scaling.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "left out: far diverged" in said and "12 points" in said
    assert best["beyond"] and "* beyond the sizes of the points" in said and "E is 0" not in said

    # the same of points in a file, as others publish them
    points = [{"parameters": n, "tokens": d, "loss": float(LAW.loss(n, d))} for n in SIZES for d in TOKENS]
    Path("points.json").write_text(json.dumps(points))
    again = ask("points=points.json", "flops=[1e13]", "resamples=20")
    assert [again[name] for name in "EABab"] == pytest.approx(LAW, rel=1e-3) and not again["best"][0]["beyond"]


def test_weights_of_the_blocks_count_where_asked(make_run: MakeRun) -> None:
    for layers in (1, 2, 4):
        for tokens in TOKENS:
            model = {"n_layer": layers, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 50_000}
            run_of(make_run, f"{layers}-{tokens:.0f}", layers * 12 * 16 * 16, tokens, model=model)
    ask("runs=runs", "size=blocks", "predict=next.json", "parameters=1e6", "tokens=1e8", "resamples=20")
    sizes = {each["parameters"] for each in json.loads(Path("next.json").read_text())["points"]}
    assert sizes == {layers * 12 * 16 * 16 for layers in (1, 2, 4)}  # 4 n^2 of attention and 8 n^2 besides


def test_a_prediction_is_registered_before_the_run(ladder: None, make_run: MakeRun) -> None:
    early = run_of(make_run, "more/early", 1e7, 1e8, summary={"started": time.time() - 60})
    asked = ["runs=runs/*-*", "parameters=1e7", "tokens=1e8", "resamples=20"]
    found = ask("predict=next.json", *asked)["prediction"]
    loss = float(LAW.loss(1e7, 1e8))
    assert found["loss"] == pytest.approx(loss, abs=1e-3) and found["low"] <= found["loss"] <= found["high"]
    with pytest.raises(UserError, match="^run=.*early: was started before the prediction"):
        ask("score=next.json", f"run={early}")
    late = {"started": time.time() + 5}
    good = run_of(make_run, "more/good", 1.005e7, 1e8, summary=late)
    other = run_of(make_run, "more/other", 2e7, 1e8, summary=late)
    with pytest.raises(
        UserError, match="^run=.*other: has 20,000,000 parameters, and the prediction is of 10,000,000;"
    ):
        ask("score=next.json", f"run={other}")
    scored = ask("score=next.json", f"run={good}")
    assert scored["error"] == pytest.approx(float(LAW.loss(1.005e7, 1e8)) - found["loss"], abs=1e-9)
    assert scored["sha256"] == found["sha256"] and json.loads(Path("next.outcome.json").read_text()) == scored
    with pytest.raises(
        UserError, match="^score=next.outcome.json: exists already; give a new file: this prediction has"
    ):
        ask("score=next.json", f"run={good}")
    with pytest.raises(UserError, match="^predict=next.json: exists already"):
        ask("predict=next.json", *asked)
    changed = Path("next.json").read_text().replace('"low": ', '"low": 0')
    Path("changed.json").write_text(changed)
    with pytest.raises(UserError, match="^score=changed.json: was changed after it was made|cannot be read"):
        ask("score=changed.json", f"run={good}")
    content = json.loads(Path("next.json").read_text())
    for key, value in {"parameters": 0, "level": True, "loss": math.nan, "tokens": 10**400}.items():
        made_up = {**content, key: value}
        made_up["sha256"] = _hash({name: each for name, each in made_up.items() if name != "sha256"})
        Path("made_up.json").write_text(json.dumps(made_up))
        with pytest.raises(UserError, match="^score=made_up.json: is no registered prediction"):
            ask("score=made_up.json", f"run={good}")
    for name in ("next.1", "next.2"):  # neither is a JSON file by its name
        Path(name).write_text(Path("next.json").read_text())
        ask(f"score={name}", f"run={good}")
        assert json.loads(Path(f"{name}.outcome.json").read_text()) == scored


def test_how_a_small_size_ranks(make_run: MakeRun) -> None:
    for size, order in {1e5: (1.0, 1.1, 1.2), 1e6: (1.0, 1.2, 1.1)}.items():
        for lr, off in zip((0.1, 0.2, 0.3), order, strict=True):
            run_of(make_run, f"{size:.0f}-{lr}", size, 1e7, off, optimizer__lr=lr)
    found = ask("runs=runs", "rank=optimizer.lr")
    assert found["sizes"] == [{"parameters": 1e5, "pairs": 3, "accuracy": pytest.approx(2 / 3)}]
    with pytest.raises(UserError, match="^rank=seed: it takes two values or more, at two sizes or more"):
        ask("runs=runs", "rank=seed")
    with pytest.raises(UserError, match="^rank=nosuch: no such setting in these runs"):
        ask("runs=runs", "rank=nosuch")


def test_what_does_not_belong_together_is_refused(ladder: None, make_run: MakeRun) -> None:
    few = "few/1"
    run_of(make_run, few, 1e6, 1e7)
    with pytest.raises(UserError, match=r"^runs=runs/few: 1 points are too few for five coefficients; it takes 2 more"):
        ask("runs=runs/few")
    for name, more, what in [
        ("tokens/1", {"tokenizer": "two"}, "tokenizer"),
        ("text/1", {"summary": {"data_hash": "other"}}, "held-out text"),
        ("way/1", {"summary": {"protocol": {"block_size": 64}}}, "way of reading it"),
    ]:
        run_of(make_run, name, 1e6, 1e7, **more)
        folder = name.partition("/")[0]
        with pytest.raises(UserError, match=f"^runs=.*: .* has another {what} than .*: their losses do not compare"):
            ask(f"runs=[runs/{folder},runs/few]")
    with pytest.raises(UserError, match="there is no finished run to fit \\(.*1: is failed\\)"):
        make_run("bad/1", None, "failed")
        ask("runs=runs/bad")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "cannot be read"),
        ("{}", "is no list of points; give a list"),
        ('[{"parameters": 1, "tokens": 2, "loss": 3}, {"parameters": 1, "tokens": -2, "loss": 3}]', "entry 2 has not"),
        ('[{"parameters": 1, "tokens": 2}]', "entry 1 has not parameters, tokens, loss as numbers above 0"),
        ('[{"parameters": "1", "tokens": 2, "loss": 3}]', "entry 1 has not"),
        ('[{"parameters": NaN, "tokens": 2, "loss": 3}]', "entry 1 has not|cannot be read"),
        ('[{"parameters": 1' + 400 * "0" + ', "tokens": 2, "loss": 3}]', "entry 1 has not"),
        ('[{"parameters": true, "tokens": 2, "loss": 3}]', "entry 1 has not"),
        ("[3]", "entry 1 has not"),
    ],
)
def test_bad_files_of_points(content: str, why: str) -> None:
    Path("points.json").write_text(content)
    with pytest.raises(UserError, match=f"^points=points.json: .*{why}"):
        ask("points=points.json")
