"""Log more than curves: the config, HParams, shared charts, loss by position, norms and weights."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.api_pb2 import DATA_TYPE_BOOL
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from gptlab.distributed.sharding import full_tensor
from gptlab.metrics import in_summary, metrics, tensorboard_tag
from gptlab.runs.config_file import flat
from gptlab.runs.differences import WITHOUT_EFFECT
from gptlab.training.lightning_internals import grad_scaler, unscales_itself
from gptlab.training.metrics_file import MetricsFile
from gptlab.training.module import GPTModule

BINS = 30  # the number that TensorBoard draws, so that it does not resample
NOT_ASKED = ("parts.", "gptlab.", "logger.", "checkpoint.", "callbacks.", "decoder.")  # they change no number of a run


class TensorBoardLayout(Callback):
    """The config of a run for its loggers (`config`, as in config.yaml), and TensorBoard's layout of the run.

    Runs are compared by `first`, then by the other metrics of a summary. Of the keys those come first that a sweep has
    chosen, or else those whose values are not the usual ones.
    """

    def __init__(self, config: dict[str, Any], usual: dict[str, Any], first: str, run_dir: Path) -> None:
        self.config = config
        self.metrics = list(dict.fromkeys([first, *(metric.name for metric in in_summary())]))
        self.first = swept(run_dir) or changed(config, usual)
        self._laid_out = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        import yaml

        assert isinstance(pl_module, GPTModule)
        asked = {key: value for key, value in scalars(self.config).items() if is_asked(key)}
        metrics = [tensorboard_tag(name) for name in self.metrics if name in pl_module.task.metrics]
        for writer in writers(trainer):
            experiment, begin, _ = _session(asked, metrics)
            _mark_differing(experiment, self.first)
            _write(writer, experiment)
            _write(writer, begin)
            text = yaml.safe_dump(self.config, sort_keys=False)
            writer.add_text("config", "\n".join("    " + line for line in text.splitlines()), trainer.global_step)
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger | MetricsFile):
                logger.log_hyperparams(asked)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GPTModule)
        for writer in writers(trainer):
            for name, curve in pl_module.curves.items():
                add_curve(writer, name, curve, trainer.global_step)
            self._lay_out(writer, set(trainer.callback_metrics))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for writer in writers(trainer):
            if trainer.global_step == trainer.max_steps:  # the first status that it reads is the one TensorBoard keeps
                _write(writer, _session({}, ())[2])

    def _lay_out(self, writer: SummaryWriter, logged: set[str]) -> None:
        """Write the layout of the charts once training metrics are logged too: no chart is empty."""
        if self._laid_out or "train/loss" not in logged:
            return
        self._laid_out = True
        charts: dict[str, dict[str, list[str]]] = {}
        for metric in metrics():
            if metric.chart:
                category, title = metric.chart
                charts.setdefault(category, {}).setdefault(title, []).append(metric.name)
        layout = {
            category: {
                title: ["Multiline", [tensorboard_tag(name) for name in names]]
                for title, names in titles.items()
                if logged.issuperset(names)
            }
            for category, titles in charts.items()
        }
        writer.add_custom_scalars(layout)


def changed(config: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """Return the keys of a config whose values are not those of the usual one; both as in config.yaml."""
    known = flat(usual)
    return [key for key, value in flat(config).items() if value != known.get(key) and is_asked(key)]


def is_asked(key: str) -> bool:
    """Return whether a setting can change a number of the run."""
    return key not in WITHOUT_EFFECT and not key.startswith(NOT_ASKED)


def swept(run_dir: Path) -> list[str]:
    """Return the keys that a sweep has chosen for this run: a job's directory is named by them."""
    named = run_dir.name.partition("-")[2] if (run_dir / "job.json").exists() else ""
    return [choice.partition("=")[0] for choice in named.split(",") if choice]


class LayerNorms(Callback):
    """The norms of each layer's gradient, before clipping, and of its weights, logged with the training metrics."""

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        assert isinstance(pl_module, GPTModule)
        step = trainer.global_step + 1
        if not pl_module.logs_at(step):
            return
        scaler = grad_scaler(trainer)
        scaled = scaler is not None and unscales_itself(optimizer)
        norms = {}
        for layer, weights in layers(pl_module.gpt):
            gradients = [p.grad for p in weights if p.grad is not None]
            norms[f"grad_norm/{layer}"] = _norm(gradients) / (scaler.get_scale() if scaler and scaled else 1.0)
            norms[f"weight_norm/{layer}"] = _norm(weights)
        for logger in trainer.loggers:
            logger.log_metrics({name: float(norm) for name, norm in norms.items()}, step=step)


class WeightHistograms(Callback):
    """Histograms of the weights, logged at every validation."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GPTModule)
        for name, p in pl_module.gpt.named_parameters():
            weight = full_tensor(p.detach())
            for writer in writers(trainer):
                writer.add_histogram(f"weights/{name}", weight.float().cpu(), trainer.global_step)


def writers(trainer: L.Trainer) -> Iterator[SummaryWriter]:
    """Yield TensorBoard's writers, in the process that logs."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
            yield logger.experiment


def scalars(values: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Return the numbers, words and switches of a config by their full keys."""
    return {key: value for key, value in flat(values).items() if isinstance(value, bool | int | float | str)}


def add_curve(writer: SummaryWriter, tag: str, curve: Tensor, step: int) -> None:
    """Show a curve (T,) as a histogram: each of 30 equal parts is a bar as high as its mean, from 0 to T."""
    heights = F.adaptive_avg_pool1d(curve.nan_to_num()[None], BINS)[0].tolist()
    width = len(curve) / BINS
    rights = [width * (i + 1) for i in range(BINS)]
    writer.add_histogram_raw(tag, 0.0, len(curve), BINS, sum(heights), 0.0, rights, heights, step)


def add_png(writer: SummaryWriter, tag: str, png: bytes, step: int) -> None:
    """Show a picture that is a PNG already."""
    width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    _write(writer, Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def layers(gpt: torch.nn.Module) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the weights of each block, and of each part outside them."""
    named: dict[str, list[Tensor]] = {}
    for name, p in gpt.named_parameters():
        part, _, rest = name.partition(".")
        layer = f"{part}.{int(rest.partition('.')[0]):02d}" if part == "blocks" else part
        named.setdefault(layer, []).append(p)
    yield from named.items()


def _norm(tensors: list[Tensor]) -> Tensor:
    return full_tensor(torch.nn.utils.get_total_norm(tensors)) if tensors else torch.zeros(())


def _session(asked: dict[str, Any], metrics: Sequence[str]) -> Any:
    """Return TensorBoard's summaries of an experiment, of the start of a run in it, and of its (good) end."""
    summaries: Any = hparams
    experiment, begin, end = summaries(asked, dict.fromkeys(metrics, math.nan))
    _mark_booleans(experiment, begin, {key for key, value in asked.items() if isinstance(value, bool)})
    return experiment, begin, end


def _mark_booleans(experiment: Any, begin: Any, keys: set[str]) -> None:
    """Let switches be true or false: PyTorch takes them for the numbers 1 and 0."""
    plugin = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        if info.name in keys:
            info.type = DATA_TYPE_BOOL
    plugin.content = data.SerializeToString()
    plugin = begin.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for key in keys:
        data.session_start_info.hparams[key].bool_value = bool(data.session_start_info.hparams[key].number_value)
    plugin.content = data.SerializeToString()


def _mark_differing(experiment: Any, swept: Sequence[str]) -> None:
    """Put swept keys, or all of a swept group, first in TensorBoard's table."""
    plugin = experiment.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(plugin.content)
    for info in data.experiment.hparam_infos:
        info.differs = any(info.name == key or info.name.startswith(f"{key}.") for key in swept)
    plugin.content = data.SerializeToString()


def _write(writer: SummaryWriter, summary: Any, step: int | None = None) -> None:
    file: Any = writer.file_writer
    file.add_summary(summary, step)
