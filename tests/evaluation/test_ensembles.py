"""Several runs scored together, against probabilities averaged by hand in float64."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.windows import held_out
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.evaluation.ensembles import mixed
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


def asked(*more: str) -> dict[str, Any]:
    return evaluate(compose("evaluate", [*more]))


def probabilities(run: Path) -> Any:
    """What a run's model gives each held-out token, (N,), in float64."""
    gpt, tokenizer = gptlab.load(run)
    windows = held_out(held_out_stream(run / "held_out")[0], 32, tokenizer.eot, False)
    found = []
    for i in range(len(windows)):
        x, y, *_ = windows.__getitems__([i])
        logits = gpt.double()(x)[0].detach().numpy()
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        counts = y[0].numpy() != IGNORE
        found.append((powers / powers.sum(-1, keepdims=True))[counts, y[0].numpy()[counts]])
    return np.concatenate(found)


def test_the_mean_of_probabilities_does_not_underflow() -> None:
    costs = [np.array([1.0, 2000.0, math.log(2)]), np.array([3.0, 2001.0, np.inf])]
    expected = [
        -math.log((math.exp(-1) + math.exp(-3)) / 2),
        2000 + math.log(2) - math.log1p(math.exp(-1)),
        math.log(4),
    ]
    assert mixed(costs) == pytest.approx(expected, rel=1e-15)


@pytest.mark.slow
def test_an_ensemble(tiny: Tiny, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its scores and those of each member, as a table, as JSON, and of other text; runs that differ are refused."""
    wide = ["model.n_embd=24", "model.block_size=16"]  # members may be unequal
    for name, more in {"a": ["optimizer.lr=0.01"], "b": ["seed=2", "optimizer.lr=0.03"], "wide": wide}.items():
        train(tiny(*more, f"run_dir={tmp_path}/{name}"))
    capfd.readouterr()
    result = asked("run=[a,b]", "batch_size=3")
    said = " ".join(capfd.readouterr().out.split())
    single = [probabilities(tmp_path / name) for name in "ab"]
    n_bytes = result["bytes"]
    rows = [("a", single[0]), ("b", single[1]), ("together", np.mean(single, 0))]
    for (name, given), found in zip(rows, [*result["members"], result], strict=True):
        nats = -np.log(given)
        assert found["loss"] == pytest.approx(nats.mean(), abs=1e-6)
        assert found["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-6)
        assert found["bits_per_byte"] == pytest.approx(nats.sum() / math.log(2) / n_bytes, abs=1e-6)
        assert f"{name} │ {found['loss']:.4f} │ {found['perplexity']:.2f}" in said
    assert [each["run"] for each in result["members"]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert result["loss"] < np.mean([each["loss"] for each in result["members"]])  # by Jensen's inequality
    alone = asked("run=a")
    assert alone["loss"] == pytest.approx(result["members"][0]["loss"]) and "members" not in alone
    shared = ("tokens", "bytes", "protocol", "tokenizer_hash", "data_hash")
    assert {key: result[key] for key in shared} == {key: alone[key] for key in shared}

    capfd.readouterr()
    assert main(["evaluate", "run=[a,wide,b/checkpoints/last.ckpt]", "block_size=16", "json=true"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert printed["protocol"]["block_size"] == 16 and len(printed["members"]) == 3
    other = asked("run=[a,b]", "data=text", "data.files=[texts/0*.txt]", "data.val_fraction=0.5")
    assert other["data_hash"] != result["data_hash"] and other["loss"] < np.mean([e["loss"] for e in other["members"]])

    for name, file in {"ids": "tokenizer/tokenizer.json", "less": "held_out/val.bin"}.items():
        path = shutil.copytree(tmp_path / "a", tmp_path / name) / file
        path.write_bytes(path.read_bytes()[:-2] + b"\n\n")
        (path.parent / "SHA256SUMS").unlink()
    for runs, line in {
        "[a,ids]": "ids: has another tokenizer than a; name runs with one tokenizer",
        "[a,less]": "less: holds out other text than a; say which: data=text",
        "[a,wide]": "wide: reads the text with block_size 16, and a with block_size 32; give block_size=16",
        "[a,a]": "a: is named twice",
        "[a,none]": "none: no such directory",
    }.items():
        with pytest.raises(UserError, match=f"^run=(.+/)?{line}"):
            asked(f"run={runs}")
    with pytest.raises(UserError, match="^run=.+: are several, and explain reads one; give one run"):
        asked("run=[a,b]", "explain=true", "text=texts/00.txt")
    shutil.rmtree(tmp_path / "b/held_out")
    with pytest.raises(UserError, match="^data=null: the run has no held-out text of its own"):
        asked("run=[a,b]")
