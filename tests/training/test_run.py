import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import gptlab
from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from gptlab.files import followed
from gptlab.runs.run_dir import LAYOUT
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.training.callbacks.batch_size_finder import micro_batches
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


def test_a_run_directory_is_whole(tiny: Tiny, tmp_path: Path) -> None:
    summary = train(tiny())
    run = tmp_path / "run"
    assert summary == json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["layout"]) == ("finished", LAYOUT)
    assert (summary["steps"], summary["tokens"], summary["seed"]) == (6, 6 * 4 * 32, 1337)
    assert summary["val_perplexity"] == pytest.approx(np.exp(summary["val_loss"]), rel=1e-5)
    assert summary["tokens_per_second"] > 0 and summary["seconds"] > 0
    assert len(summary["data_hash"]) == 64
    gpt, _ = gptlab.load(run)
    assert summary["parameters"] == sum(p.numel() for p in gpt.parameters())
    names = {p.name.split(".")[0] for p in run.iterdir()}
    assert names == {"config", "checkpoints", "tokenizer", "events", "metrics", "samples", "summary", "held_out"}
    files = {"best.ckpt", "last.ckpt", "step-3.ckpt", "step-6.ckpt", "SHA256SUMS", ".lock"}  # both are the best so far
    assert {p.name for p in (run / "checkpoints").iterdir()} == files
    assert followed(tmp_path / "outputs/latest").resolve() == run


def test_what_is_logged(tiny: Tiny, tmp_path: Path) -> None:
    summary = train(tiny())
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    scalars = {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    train_tags = {
        "loss/train",
        "train/perplexity",
        "train/bits_per_byte",
        "train/tokens_per_second",
        "train/mfu",
        "train/data_wait",
        "optim/lr",
        "optim/grad_norm",
    }
    val_tags = {"loss/val", "val/perplexity", "val/bits_per_byte"}
    assert set(scalars) == train_tags | val_tags
    assert all(scalars[tag] == [2, 4, 6] for tag in train_tags)
    assert all(scalars[tag] == [3, 6] for tag in val_tags)
    assert events.Scalars("loss/val")[-1].value == pytest.approx(summary["val_loss"])
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 + 2


@pytest.mark.slow
def test_samples_at_every_validation(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    text = (tmp_path / "run/samples.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## step 3", "## step 6"]
    assert text.count("    the cat") == 2
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["tensors"]
    assert [tag for tag in tags if tag.startswith("samples")] == ["samples/0/text_summary"]


@pytest.mark.parametrize(("steps", "validated"), [(2, [2]), (3, [3]), (5, [3, 5])])
def test_the_end_is_measured_once(steps: int, validated: list[int], tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(f"budget.steps={steps}"))
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert [e.step for e in events.Scalars("loss/val")] == validated


def test_it_learns(tiny: Tiny) -> None:
    summary = train(tiny("budget.steps=80", "optimizer.lr=0.01", "trainer.val_every_n_steps=80", "logger=none"))
    assert summary["train_loss"] < 3.0 < np.log(257)
    assert summary["val_loss"] < 3.0


@pytest.mark.slow
def test_same_seed_same_numbers(tiny: Tiny, tmp_path: Path) -> None:
    weights = []
    for run in ("a", "b", "c"):
        seed = 2 if run == "c" else 1
        train(tiny(f"run_dir={tmp_path}/{run}", f"seed={seed}", "model.dropout=0.1", "logger=none"))
        torch.rand(5)  # what happens in between does not matter
        weights.append(torch.cat([p.flatten() for p in gptlab.load(tmp_path / run)[0].parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_micro_batches_do_not_change_the_result(tiny: Tiny, tmp_path: Path) -> None:
    whole = train(tiny(f"run_dir={tmp_path}/whole", "logger=none"))
    parts = train(tiny(f"run_dir={tmp_path}/parts", "logger=csv", "data.micro_batch_size=1"))
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], abs=1e-5)
    assert parts["steps"] == whole["steps"]
    rows = (tmp_path / "parts/metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 + 2  # by step, not by micro-batch


def test_a_checkpoint_is_tensors_and_plain_dicts(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    train(config)
    for name in ("best", "last"):
        saved = torch.load(tmp_path / f"run/checkpoints/{name}.ckpt", weights_only=True)
        assert saved["model"] == dataclasses.asdict(config.model) | {"vocab_size": 257}


def test_best_and_last_differ_when_training_goes_wrong(tiny: Tiny, tmp_path: Path) -> None:
    """A rate that ruins the model after its first validation: best.ckpt stays at that one."""
    train(tiny("optimizer.lr=3", "schedule=constant", "schedule.warmup_steps=0", "trainer.val_every_n_steps=1"))
    best, last = (torch.load(tmp_path / f"run/checkpoints/{n}.ckpt", weights_only=True) for n in ("best", "last"))
    assert last["global_step"] == 6 > best["global_step"]


def test_bf16_mixed_with_clipping_and_fused_adamw(tiny: Tiny) -> None:
    summary = train(tiny("trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"))
    assert summary["status"] == "finished" and summary["val_loss"] < 6


def test_clipping_bounds_the_update(tiny: Tiny, tmp_path: Path) -> None:
    """By SGD-like reading of AdamW: only the logged norm is unclipped, the gradients are not."""
    losses = [
        train(tiny(f"run_dir={tmp_path}/{clip}", f"trainer.gradient_clip_val={clip}", "optimizer.eps=1.0"))[
            "train_loss"
        ]
        for clip in (0, 1e-6)
    ]
    assert losses[1] > losses[0]  # clipped to nothing, it hardly moves


@pytest.mark.parametrize("logger", ["csv", "none"])
def test_loggers(tiny: Tiny, tmp_path: Path, logger: str) -> None:
    train(tiny(f"logger={logger}"))
    names = {p.name.split(".")[0] for p in (tmp_path / "run").iterdir()}
    assert ("metrics" in names) == (logger == "csv") and "events" not in names


def test_a_failed_run_says_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("gptlab.training.module.GPTModule.validation_step", broken)
    with pytest.raises(RuntimeError, match="on fire"):
        train(tiny())
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "failed"


def test_ctrl_c_keeps_what_was_learned(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptlab.training.module import GPTModule

    step = GPTModule.training_step

    def interrupted(self: GPTModule, batch: object, batch_idx: int) -> object:
        if batch_idx == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(GPTModule, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny())
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 4)
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
    gptlab.load("latest")


def test_a_run_is_never_written_over(tiny: Tiny) -> None:
    train(tiny())
    with pytest.raises(UserError, match=r"^run_dir=.+: holds a run already; "):
        train(tiny())


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "expected"),
    [(8, None, 1, (8, 1)), (8, None, 4, (2, 1)), (8, 2, 1, (2, 4)), (8, 2, 2, (2, 2)), (8, 1, 8, (1, 1))],
)
def test_one_global_batch_on_any_devices(
    batch: int, micro: int | None, devices: int, expected: tuple[int, int]
) -> None:
    assert micro_batches(batch, micro, devices) == expected


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "nearest"), [(7, 2, 1, "6 or 8"), (6, None, 4, "4 or 8"), (2, 4, 1, "4")]
)
def test_a_batch_that_does_not_divide(batch: int, micro: int | None, devices: int, nearest: str) -> None:
    with pytest.raises(UserError, match=f"^data.batch_size={batch}: .+; choose {nearest}$"):
        micro_batches(batch, micro, devices)


def test_windows_of_documents_each_read_alone(tiny: Tiny, tmp_path: Path) -> None:
    """Packed by documents and masked, the score is that of every document by itself."""
    summary = train(tiny("data.packing=documents", "data.mask_documents=true", "model.block_size=400"))
    assert summary is not None
    gpt, tokenizer = gptlab.load(tmp_path / "run")
    tokens, _ = held_out_stream(tmp_path / "run/held_out")
    starts = [*tokens.document_starts(tokenizer.eot).tolist(), len(tokens)]
    total = 0.0
    with torch.no_grad():
        for start, stop in itertools.pairwise(starts):
            ids = torch.from_numpy(tokens[start : stop + 1].astype("int64"))
            total += cross_entropy(gpt(ids[None, : stop - start])[:, : len(ids) - 1], ids[None, 1:], "sum").item()
    assert len(starts) == 5
    assert summary["val_loss"] == pytest.approx(total / (len(tokens) - 1), abs=1e-4)
    assert evaluate(compose("evaluate", [f"run={tmp_path}/run"]))["loss"] == pytest.approx(
        summary["val_loss"], abs=1e-5
    )


def test_the_log_says_how_long_training_waited_for_data(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    with (tmp_path / "run/metrics.csv").open() as file:
        waits = [float(row["train/data_wait"]) for row in csv.DictReader(file) if row["train/data_wait"]]
    assert len(waits) == 3 and all(0 < wait < 1 for wait in waits)


def test_a_checkpoint_knows_its_data(tiny: Tiny, tmp_path: Path) -> None:
    summary = train(tiny())
    assert summary is not None
    saved = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert saved["TextDataModule"]["data_hash"] == summary["data_hash"]
    assert len(summary["data_hash"]) == 64


@pytest.mark.slow
def test_a_padded_vocabulary_counts_in_the_loss(tiny: Tiny, tmp_path: Path) -> None:
    summary = train(tiny("model.vocab_size=320", "optimizer.lr=0.01", "budget.steps=60", "data.val_fraction=0.1"))
    assert summary is not None
    gpt, tokenizer = gptlab.load(tmp_path / "run")
    assert (gpt.config.vocab_size, gpt.wte.num_embeddings, tokenizer.n_vocab) == (320, 320, 257)
    tokens, _ = held_out_stream(tmp_path / "run/held_out")
    ids, total, padding = tokens[0 : len(tokens)].astype("int64"), 0.0, []
    for start in range(0, len(ids) - 1, 32):
        window = ids[start : start + 33]
        with torch.no_grad():
            logits = gpt(torch.from_numpy(window[None, :-1]))[0].double().numpy()
        probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # (T, 320)
        total -= np.log(probs[np.arange(len(probs)), window[1:]]).sum()
        padding.append(probs[:, 257:].sum(1).mean())
    assert summary["val_loss"] == pytest.approx(total / (len(ids) - 1), abs=1e-5)
    assert evaluate(compose("evaluate", []))["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert np.mean(padding) < 0.05 < 63 / 320  # the model learns that nobody writes it
