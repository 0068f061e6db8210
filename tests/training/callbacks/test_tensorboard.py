"""A dashboard gets the config, the scores and the layout of a run."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard.writer import SummaryWriter

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.windows import held_out
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.shards import TokenStream
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.optim.optimizers import AdamW
from gptlab.optim.schedules import Constant
from gptlab.runs.config_file import record
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tasks.cross_entropy import cross_entropy
from gptlab.tokenizers.byte import Byte
from gptlab.training.callbacks.tensorboard import BINS, LayerNorms, add_curve, scalars
from gptlab.training.config import TrainConfig
from gptlab.training.loss import Loss
from gptlab.training.module import GPTModule
from gptlab.training.run import train
from tests.forked import gptlab

Tiny = Callable[..., TrainConfig]


def board(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"tensors": 0, "histograms": 0}).Reload()


def text_of(events: EventAccumulator, tag: str) -> str:
    return str(events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode())


def test_what_was_asked_is_in_hparams_and_as_text(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("optimizer.lr=0.0125")
    train(config)
    events = board(tmp_path / "run")
    kept = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    asked = metadata.parse_session_start_info_plugin_data(kept).hparams
    assert asked["optimizer.lr"].number_value == 0.0125 and asked["on_nan"].string_value == "stop"
    assert not [
        key for key in asked if key.startswith(("run_dir", "logger", "resume", "json", "callbacks", "checkpoint"))
    ]
    assert asked["compile"].WhichOneof("kind") == "bool_value" and not asked["compile"].bool_value
    assert asked["model.bias"].bool_value is True
    ended = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(ended).status == 1  # success
    about = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(about)
    kinds = {info.name: info.type for info in experiment.hparam_infos}
    assert (kinds["compile"], kinds["optimizer.lr"], kinds["on_nan"]) == (2, 3, 1)  # a switch, a number, a word
    differ = {info.name for info in experiment.hparam_infos if info.differs}
    assert {"optimizer.lr", "model.n_layer"} <= differ and not {"compile", "optimizer.beta1"} & differ
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics[0] == "loss/val" and set(metrics) <= set(events.Tags()["scalars"])
    assert all(math.isfinite(event.value) for event in events.Scalars("loss/val"))
    assert min(events.Tags()["scalars"]).startswith("loss/")  # what the first tab begins with
    shown = yaml.safe_load("\n".join(line[4:] for line in text_of(events, "config").splitlines()))
    assert (
        shown
        == yaml.safe_load((tmp_path / "run/config.yaml").read_text())
        == record(config) | {"model": shown["model"]}
    )


def test_what_a_sweep_has_chosen_comes_first(tiny: Tiny, tmp_path: Path) -> None:
    job = tmp_path / "3-optimizer.lr=0.1,schedule=cosine"
    job.mkdir()
    (job / "job.json").write_text("{}")
    train(tiny("search_metric=val/perplexity", f"run_dir={job}"))
    about = board(job).SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = metadata.parse_experiment_plugin_data(about)
    differ = {info.name for info in experiment.hparam_infos if info.differs}
    assert {"optimizer.lr", "schedule.warmup_steps"} <= differ and not any(name.startswith("model") for name in differ)
    assert experiment.metric_infos[0].name.tag == "val/perplexity"


def test_no_chart_is_empty(tiny: Tiny, tmp_path: Path) -> None:
    """Also where the first validation comes before any log of training."""
    train(tiny("trainer.val_every_n_steps=1"))
    events = board(tmp_path / "run")
    (layout,) = events.Tensors("custom_scalars__config__")
    charts = [
        chart for category in Layout.FromString(layout.tensor_proto.string_val[0]).category for chart in category.chart
    ]
    found = {chart.title: list(chart.multiline.tag) for chart in charts}
    assert found["loss"] == ["loss/train", "loss/val"]  # one over the other: a run has a colour, each has its marks
    assert found["perplexity"] == ["train/perplexity", "val/perplexity"]
    assert found["bits per byte"] == ["train/bits_per_byte", "val/bits_per_byte"]
    assert found["learning rate"] == ["optim/lr"] and found["gradient norm"] == ["optim/grad_norm"]
    tags = [tag for chart in charts for tag in chart.multiline.tag]
    assert tags and set(tags) <= set(events.Tags()["scalars"])
    assert not [tag for tag in events.Tags()["scalars"] if "epoch" in tag or "hp_metric" in tag]


def test_training_is_scored_as_validation_is(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    train(config)
    events = board(tmp_path / "run")
    last = {name: events.Scalars(f"train/{name}")[-1].value for name in ("perplexity", "bits_per_byte")}
    last["loss"] = events.Scalars("loss/train")[-1].value
    manifest = prepare(config.data, config.tokenizer).manifest["train"]
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]), rel=1e-5)
    expected = last["loss"] / math.log(2) * manifest["tokens"] / manifest["bytes"]
    assert last["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_bytes_of_a_token_in_a_mixture() -> None:
    """Sources of 2 and 4 bytes a token, of which the first gives three tokens of four."""
    parts = {"a": {"train": {"bytes": 20, "tokens": 10}}, "b": {"train": {"bytes": 400, "tokens": 100}}}
    manifest: dict[str, Any] = {"sources": parts, "val": {"bytes": 30, "tokens": 10}}
    corpus = Corpus(Byte().build([]), manifest, [], [3.0, 1.0], TokenStream([]), [])
    assert corpus.bytes_per_target == 2.5
    parts["b"]["train"] = {"bytes": None, "tokens": 100}  # tokens without their text
    assert corpus.bytes_per_target == 3


def positions(config: TrainConfig, run: Path) -> torch.Tensor:
    """Mean nats of each position, one window after the other."""
    gpt, tokenizer = RunDir.find(str(run)).load()
    val = prepare(config.data, config.tokenizer).val
    by_documents = config.data.packing == "documents"
    windows = held_out(val, gpt.config.block_size, tokenizer.eot, by_documents)
    total, count = torch.zeros(2, gpt.config.block_size, dtype=torch.float64)
    for i in range(len(windows)):
        x, y, *_ = windows.__getitems__([i])
        for t in range(y.shape[1]):
            if y[0, t] != IGNORE:
                total[t] += cross_entropy(gpt(x)[:, t : t + 1], y[:, t : t + 1]).item()
                count[t] += 1
    return (total / count).nan_to_num()


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_loss_by_position(tiny: Tiny, tmp_path: Path, packing: str) -> None:
    config = tiny("model.block_size=30", f"data.packing={packing}", "optimizer.lr=0.01")
    train(config)
    last = board(tmp_path / "run").Histograms("val/loss_by_position")[-1]
    assert last.step == 6
    expected = positions(config, tmp_path / "run")
    assert last.histogram_value.bucket == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.slow
def test_loss_by_position_is_that_of_all_ranks(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(f"run_dir={tmp_path}/one"))
    gptlab("train", f"config={tmp_path}/one", f"run_dir={tmp_path}/two", "trainer.devices=2")
    one, two = (board(tmp_path / run).Histograms("val/loss_by_position")[-1] for run in ("one", "two"))
    assert two.histogram_value.bucket == pytest.approx(one.histogram_value.bucket, rel=1e-4)


@pytest.mark.parametrize("length", [7, 30, 256])
def test_a_curve_is_drawn_over_its_whole_length(tmp_path: Path, length: int) -> None:
    curve = torch.arange(length, dtype=torch.float64)
    with SummaryWriter(str(tmp_path / "curve")) as writer:
        add_curve(writer, "curve", curve, 3)
    drawn = board(tmp_path / "curve").Histograms("curve")[0].histogram_value
    assert (drawn.min, drawn.max, len(drawn.bucket)) == (0, length, BINS)
    assert list(drawn.bucket) == sorted(drawn.bucket)
    assert sum(drawn.bucket) / BINS == pytest.approx((length - 1) / 2)


@pytest.mark.slow
def test_monitor_shows_norms_and_weights(tiny: Tiny, tmp_path: Path) -> None:
    """The norms of the layers come together to that of the model; the gradients' before clipping."""
    train(tiny("callbacks=monitor", "trainer.gradient_clip_val=0.01", "logger.every_n_steps=1"))
    events = board(tmp_path / "run")
    gpt, _ = RunDir.find(str(tmp_path / "run")).load()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("norms/grad_norm/")]
    assert "norms/grad_norm/blocks.01" in tags
    for i, whole in enumerate(events.Scalars("optim/grad_norm")):
        assert math.hypot(*(events.Scalars(tag)[i].value for tag in tags)) == pytest.approx(whole.value, rel=1e-4)
    shown = {tag.removeprefix("weights/") for tag in events.Tags()["histograms"] if tag.startswith("weights/")}
    assert shown == {name for name, _ in gpt.named_parameters()}
    assert events.Histograms("weights/wte.weight")[-1].histogram_value.num == gpt.wte.weight.numel()


@pytest.mark.parametrize(("fused", "expected"), [(True, 5.0), (False, 40.0)])
def test_norms_of_scaled_gradients(fused: bool, expected: float) -> None:
    """Gradients under a loss scale of 8 when Lightning has not divided by it, as it does but for fused optimizers."""
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=4, vocab_size=5))
    module = GPTModule(
        Loss(CausalLM(), gpt), AdamW(), Constant(), steps=9, val_bytes=1, clip_norm=1.0, log_every_n_steps=1, seed=0
    )
    gpt.ln_f.weight.grad = torch.tensor([24.0, 32.0] + [0.0] * 6)
    logged: dict[str, float] = {}
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.update(metrics))
    precision = SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: 8.0))
    trainer: Any = SimpleNamespace(global_step=0, loggers=[logger], precision_plugin=precision)
    optimizer: Any = SimpleNamespace(_step_supports_amp_scaling=fused)
    LayerNorms().on_before_optimizer_step(trainer, module, optimizer)
    assert logged["grad_norm/ln_f"] == pytest.approx(expected)


def test_flat() -> None:
    assert scalars({"a": {"b": 1, "c": {"d": None}}, "e": [1], "f": "x", "g": False}) == {
        "a.b": 1,
        "f": "x",
        "g": False,
    }
