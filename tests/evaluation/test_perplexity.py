import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.data.batches.windows import whole
from gptlab.errors import UserError
from gptlab.evaluation.held_out import require_length
from gptlab.evaluation.perplexity import measure
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

T = 8


def gpt() -> GPT:
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=T, vocab_size=20)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


@pytest.mark.parametrize("n", [9, 16, 17, 20, 83])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_token_counts_once_and_equally(n: int, batch_size: int) -> None:
    """Against a plain loop over windows, one token at a time, in float64."""
    model, tokens = gpt(), np.random.default_rng(n).integers(0, 20, n).astype(np.uint16)
    expected = 0.0
    for t in range(1, n):
        start = (t - 1) // T * T
        logits = model(torch.from_numpy(tokens[None, start:t].astype(np.int64)))[0, -1].double()
        expected -= logits.log_softmax(-1)[tokens[t]].item()
    sums = measure(model, CausalLM(), whole(tokens, T), batch_size)
    assert sums["targets"].sum() == n - 1
    assert sums["nats"].sum().item() == pytest.approx(expected, rel=1e-5)
    scores = CausalLM().scores(sums, 50)
    assert scores["perplexity"] == pytest.approx(math.exp(expected / (n - 1)), rel=1e-4)
    assert scores["bits_per_byte"] == pytest.approx(expected / math.log(2) / 50, rel=1e-5)


@pytest.mark.slow
def test_alibi_trained_at_one_length_is_evaluated_at_four_times_it(
    tiny: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    summary = train(tiny("model.positions=alibi", "model.block_size=16", "budget.steps=60", "optimizer.lr=0.01"))
    scores = {size: evaluate(compose("evaluate", [f"run={tmp_path}/run", f"block_size={size}"])) for size in (16, 64)}
    assert scores[16]["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert scores[64]["tokens"] == scores[16]["tokens"]
    assert scores[64]["loss"] < scores[16]["loss"] + 0.1  # longer contexts do it no harm


def test_learned_positions_end_where_they_end(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny("budget.steps=1"))
    with pytest.raises(UserError, match=r"^block_size=33: is more than the 32 positions .+; give at most 32$"):
        evaluate(compose("evaluate", [f"run={tmp_path}/run", "block_size=33"]))


def test_less_than_a_window() -> None:
    with pytest.raises(UserError, match="8 tokens are less than one window"):
        require_length(np.zeros(8, np.uint16), T)


def test_a_run_s_own_score_needs_nothing_but_the_run(
    tiny: Callable[..., TrainConfig], texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    summary = train(tiny())
    shutil.rmtree(tmp_path / "texts")
    shutil.rmtree(tmp_path / "cache")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    result = evaluate(compose("evaluate", [f"run={moved}"]))
    assert result["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert result["bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], abs=1e-5)
    holds_for = {"protocol", "tokenizer_hash", "data_hash"}
    computed = {"precision", "weight_bytes"}
    assert set(result) == {"loss", "perplexity", "bits_per_byte", "tokens", "bytes", *holds_for, *computed}
    assert all(result[key] == summary[key] for key in holds_for)
    assert result["protocol"] == {
        "block_size": 32,
        "stride": 32,
        "windows": "one after another",
        "documents_read_alone": False,
    }
    assert "val loss" in capsys.readouterr().out


def test_weights_of_fewer_bits_cost_little(
    tiny: Callable[..., TrainConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """At most 0.005 nats with int8; every matrix is a fourth of its size, embeddings stay as they are."""
    train(tiny("budget.steps=20", "optimizer.lr=3e-3"))
    exact, half, eight = (
        evaluate(compose("evaluate", ["run=latest", f"precision={name}"])) for name in ("32-true", "bf16-true", "int8")
    )
    assert 0 < abs(eight["loss"] - exact["loss"]) < 0.005 and 0 < abs(half["loss"] - exact["loss"]) < 0.005
    together = evaluate(compose("evaluate", ["run=[latest,run/checkpoints/best.ckpt]", "precision=int8"]))
    assert together["weight_bytes"] == 2 * eight["weight_bytes"]
    model = gptlab.load("run")[0]
    weights = {id(each): each for each in model.parameters()}.values()
    assert exact["weight_bytes"] == 4 * sum(each.numel() for each in weights) == 2 * half["weight_bytes"]
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    more = 4 + 2  # bytes a row: its scale, and weights of the two extremes
    saved = sum(3 * each.weight.numel() - more * each.out_features for each in linear)
    assert (
        eight["weight_bytes"] == exact["weight_bytes"] - saved + 4 * model.lm_head.weight.numel()
    )  # tied: kept beside
    assert f"int8: {eight['weight_bytes'] / 1e6:.1f} MB of weights" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("damage", ["short", "dtype", "no manifest", "garbage"])
def test_held_out_text_that_is_damaged(tiny: Callable[..., TrainConfig], tmp_path: Path, damage: str) -> None:
    train(tiny("budget.steps=1"))
    folder = tmp_path / "run/held_out"
    manifest = json.loads((folder / "manifest.json").read_text())
    if damage == "short":
        (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[:-2])
    elif damage == "dtype":
        (folder / "manifest.json").write_text(json.dumps({**manifest, "dtype": "O"}))
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_bytes(b"\xff[")
    with pytest.raises(UserError) as error:
        evaluate(compose("evaluate", ["run=latest"]))
    assert "held_out" in str(error.value) and "\n" not in str(error.value)


def test_other_data(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny())
    (tmp_path / "other.txt").write_text("the cat sat on the mat and the dog ran home. " * 3)
    overrides = ["run=latest", "data=text", "data.files=[other.txt]", "data.val_fraction=1"]
    result = evaluate(compose("evaluate", [*overrides, "block_size=16"]))
    assert (result["tokens"], result["bytes"]) == (135, 135)  # bytes are tokens here
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert result["data_hash"] != summary["data_hash"] and result["tokenizer_hash"] == summary["tokenizer_hash"]
    assert result["protocol"] == {**summary["protocol"], "block_size": 16, "stride": 16}


def test_best_or_last(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    train(tiny("optimizer.lr=1", "schedule=constant", "schedule.warmup_steps=0", "trainer.val_every_n_steps=1"))
    last = evaluate(compose("evaluate", [f"run={tmp_path}/run"]))
    best = evaluate(compose("evaluate", [f"run={tmp_path}/run/checkpoints/best.ckpt"]))
    assert best["loss"] < last["loss"]
    assert gptlab.load(tmp_path / "run/checkpoints/best.ckpt")[0].training is False
