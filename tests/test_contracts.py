"""Contracts of Lightning, Hydra, OmegaConf and torch that they do not promise, each with our promise that depends on
it.

Raising the version of one of them means running this file:

    pytest -n 0 tests/test_contracts.py

Each test is one of our promises, in its docstring. The names themselves stand in training/lightning_internals.py and
config/hydra_internals.py, and the last test asserts that none of their functions is without a contract here.
"""

import ast
import copy
import dataclasses
import inspect
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra.errors
import lightning as L
import omegaconf.errors
import pytest
import torch
from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job
from hydra.errors import ConfigCompositionException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.launchers import subprocess_script
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins.precision import MixedPrecision
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf, _utils, base
from omegaconf.errors import GrammarParseError, ValidationError
from torch.utils.data import DataLoader
from yaml import YAMLError

from gptlab.config import hydra_internals
from gptlab.training import lightning_internals

pytestmark = pytest.mark.filterwarnings("ignore")


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.seen: list[Any] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(("validation", self.trainer.global_step, self.layer.training))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Loader(DataLoader[torch.Tensor]):
    """Like ours, a DataLoader whose __iter__ is a generator."""

    def __iter__(self) -> Iterator[torch.Tensor]:  # type: ignore[override]
        yield from super().__iter__()


class Data(L.LightningDataModule):
    def __init__(self, steps: int, accumulate: int = 1) -> None:
        super().__init__()
        self.steps, self.accumulate, self.first = steps, accumulate, None

    def train_dataloader(self) -> Loader:
        self.first = self.trainer.global_step
        self.loader = Loader(torch.randn((self.steps - self.first) * self.accumulate * 2, 2), batch_size=2)
        return self.loader

    def val_dataloader(self) -> Loader:
        return Loader(torch.randn(2, 2), batch_size=2)

    def state_dict(self) -> dict[str, Any]:
        return {"data_hash": "abc"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded = state_dict


def make_trainer(folder: Path, steps: int, callbacks: Sequence[Callback] = (), **more: Any) -> L.Trainer:
    """Return a Trainer that is built as ours is."""
    given: dict[str, Any] = {
        **{"accelerator": "cpu", "devices": 1, "max_steps": steps, "check_val_every_n_epoch": None, "logger": False},
        **{"num_sanity_val_steps": 0, "use_distributed_sampler": False, "log_every_n_steps": 1},
        **{"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder},
    }
    trainer = L.Trainer(**{**given, **more, "callbacks": [*callbacks, Last()]})
    lightning_internals.take_over_validation(trainer)
    return trainer


class Last(Checkpoint):
    """Keeps Lightning from adding a ModelCheckpoint of its own."""


# --- Lightning: loops -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_resumes_at_any_step(tmp_path: Path, accumulate: int) -> None:
    """Resuming equals never having stopped: no batch comes twice or is left out, whatever step the checkpoint is of.

    Lightning takes the loops that `on_load_checkpoint` puts into the checkpoint; `global_step` is there before the loader
    is asked for, and the optimizer before `on_train_start`, where our learning rate goes over the checkpoint's.
    """

    class Resumes(Module):
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["loops"] = lightning_internals.restart_loops_at(
                self.trainer, checkpoint["global_step"], accumulate * checkpoint["global_step"]
            )

        def on_train_start(self) -> None:
            state = self.trainer.optimizers[0].state_dict()["state"]
            self.began = self.trainer.global_step, state[0]["step"].item(), self.lr_schedulers().base_lrs

        def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> None:
            self.seen.append((batch_idx % accumulate, self.trainer.global_step))

    first = make_trainer(tmp_path, 2, accumulate_grad_batches=accumulate)
    first.fit(Module(), datamodule=Data(2, accumulate))
    first.save_checkpoint(tmp_path / "a.ckpt")
    trainer, module, data = make_trainer(tmp_path, 5), Resumes(), Data(5, accumulate)
    lightning_internals.set_accumulation(trainer, accumulate)
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert data.first == 2 and data.loaded == {"data_hash": "abc"}
    assert module.began == (2, 2.0, [0.1])
    assert trainer.global_step == 5 and trainer.fit_loop.epoch_loop.total_batch_idx == 5 * accumulate - 1
    assert module.seen == [(part, step) for step in (2, 3, 4) for part in range(accumulate)]


def test_steps_and_accumulation_may_be_set_on_fit_start(tmp_path: Path) -> None:
    """`budget.minutes` is turned into steps, and `micro_batch_size=auto` into micro-batches, before the first step.

    By then the optimizer is built and nothing was restored into it; the loader is asked for later, and taken as it is.
    """

    class Longer(Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.found = len(trainer.optimizers), dict(trainer.optimizers[0].state)
            data = lightning_internals.datamodule_of(trainer)
            data.steps, data.accumulate = 6, 2
            lightning_internals.set_steps(trainer, 6)
            lightning_internals.set_accumulation(trainer, 2)

    longer, data = Longer(), Data(1)
    trainer = make_trainer(tmp_path, 1, [longer])
    trainer.fit(Module(), datamodule=data)
    assert (trainer.max_steps, trainer.global_step) == (6, 6)
    assert longer.found == (1, {})
    assert trainer.train_dataloader is data.loader


def test_accumulation_may_change_at_the_end_of_a_step(tmp_path: Path) -> None:
    """`schedule.batch`: each step has the micro-batches of its own size, and their gradients alone."""

    class Grows(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 2 and trainer.accumulate_grad_batches == 1:
                lightning_internals.set_accumulation(trainer, 3)

    class Sums(Module):
        def on_train_batch_start(self, batch: torch.Tensor, batch_idx: int) -> None:
            parts = self.trainer.accumulate_grad_batches
            self.seen.append((self.trainer.global_step, batch_idx % parts, batch.sum(0)))

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            own = torch.stack([rows for step, _, rows in self.seen if step == self.trainer.global_step])
            assert torch.allclose(self.layer.weight.grad[0], own.mean(0))

    trainer, module = make_trainer(tmp_path, 4, [Grows()]), Sums()
    trainer.fit(module, datamodule=Data(8))
    assert [each[:2] for each in module.seen] == [
        (0, 0),
        (1, 0),
        *((step, part) for step in (2, 3) for part in range(3)),
    ]
    assert trainer.global_step == 4 and module.lr_schedulers().last_epoch == 4


def test_we_validate_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """At the end of a step everything happens in one written order: Lightning validates when we say so, never else.

    All hooks of a validation are called, the model is in eval mode in it and in training mode after it, what is
    published is there at once and stays after the fit, and `trainer.validate` keeps the step.
    """
    said: list[Any] = []

    class Validates(Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == 2:
                lightning_internals.validate(trainer)
                said.append(("after", pl_module.layer.training, float(trainer.callback_metrics["val/loss"])))

        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            said.append(("on_validation_end", trainer.global_step))

    class Publishes(Module):
        def on_validation_epoch_end(self) -> None:
            lightning_internals.publish(self.trainer, {"val/loss": 7.0}, self.trainer.global_step)

    logger, module, data = CSVLogger(tmp_path, name="", version=""), Publishes(), Data(3)
    trainer = make_trainer(tmp_path, 3, [Validates()], val_check_interval=1)
    trainer.loggers = [logger]  # after construction: they write, and not all that can be wrong was met before
    trainer.fit(module, datamodule=data)
    assert said == [("on_validation_end", 2), ("after", True, 7.0)]
    assert module.seen == [("validation", 2, False)] and trainer.global_step == 3
    assert trainer.callback_metrics["val/loss"] == 7.0
    assert (tmp_path / "metrics.csv").read_text() == "step,val/loss\n2,7.0\n"  # by our step, and no `epoch`
    trainer.validate(module, data, verbose=False)
    assert said[-1] == ("on_validation_end", 3) and trainer.global_step == 3


def test_the_order_of_hooks_in_a_step(tmp_path: Path) -> None:
    """Gradient norms are those before clipping, clipping is ours alone, and a step counts once its batch has ended."""
    said: list[Any] = []

    class Says(Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, *args: Any) -> None:
            said.append(("on_before_optimizer_step", trainer.global_step))

        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            said.append(("on_train_batch_end", trainer.global_step))

    class Clips(Module):
        def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **kwargs: Any) -> None:
            said.append(("configure_gradient_clipping", gradient_clip_val))

    make_trainer(tmp_path, 1, [Says()]).fit(Clips(), datamodule=Data(1))
    assert said == [("on_before_optimizer_step", 0), ("configure_gradient_clipping", None), ("on_train_batch_end", 1)]


def test_the_end_of_step_is_the_last_callback(tmp_path: Path) -> None:
    """A checkpoint is complete: a Checkpoint is called after all other callbacks, which keep their order."""

    class First(Callback): ...

    class Second(Callback): ...

    kinds = [type(callback).__name__ for callback in make_trainer(tmp_path, 1, [Last(), First(), Second()]).callbacks]
    assert kinds == ["First", "Second", "Last", "Last"]


def test_a_stop_reaches_on_exception_and_signals_stay_ours(tmp_path: Path) -> None:
    """Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 and a time limit end a run so that it can go on, at the end of a step only.

    Left alone, Lightning takes SIGTERM and ends a run between two micro-batches. It makes SystemExit of
    KeyboardInterrupt, and lets Ctrl-C be ignored from then on.
    """

    class Stopped(KeyboardInterrupt): ...

    class Stops(Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            self.during = {number: signal.getsignal(number) for number in numbers}

        def on_train_batch_end(self, *args: Any) -> None:
            raise Stopped

        def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
            self.seen = exception

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    stops, before = Stops(), {number: signal.getsignal(number) for number in numbers}
    trainer = make_trainer(tmp_path, 3, [stops])
    lightning_internals.leave_signals(trainer)
    try:
        with pytest.raises(SystemExit):
            trainer.fit(Module(), datamodule=Data(3))
        assert isinstance(stops.seen, Stopped) and trainer.global_step == 1
        assert stops.during == before
        assert all(signal.getsignal(number) == before[number] for number in numbers if number != signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- Lightning: checkpoints -------------------------------------------------------------------------------------------


def test_every_checkpoint_is_written_by_our_plugin(tmp_path: Path) -> None:
    """A checkpoint is written whole or not at all, with its checksum, and a full disk is said at the end."""
    assert list(inspect.signature(TorchCheckpointIO.save_checkpoint).parameters) == [
        *("self", "checkpoint", "path", "storage_options")
    ]

    class Files(TorchCheckpointIO):
        failure = "no space left"

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            self.saved = Path(path).name

    plugin = Files()
    trainer = make_trainer(tmp_path, 1, plugins=[plugin])
    trainer.fit(Module(), datamodule=Data(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert plugin.saved == "a.ckpt" and lightning_internals.write_failure(trainer) == "no space left"


def test_the_names_in_a_checkpoint(tmp_path: Path) -> None:
    """Runs of every version go on: the parts of a checkpoint keep their names.

    The state of a callback or data module is under the name of its class, so renaming a class would lose it silently.
    """

    class Outer:
        class Speed(Callback):
            def state_dict(self) -> dict[str, Any]:
                return {"seconds": 1.0}

    trainer = make_trainer(tmp_path, 1, [Outer.Speed()])
    trainer.fit(Module(), datamodule=Data(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    ours = {"state_dict", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers"}
    assert ours | {"epoch", "pytorch-lightning_version", "Data"} == set(saved)
    assert saved["global_step"] == 1 and saved["Data"] == {"data_hash": "abc"}
    assert saved["callbacks"][Outer.Speed.__qualname__] == {"seconds": 1.0}
    assert saved["lr_schedulers"][0]["base_lrs"] == [0.1]


def test_weights_and_optimizer_may_be_taken_back_in_mid_run(tmp_path: Path) -> None:
    """`on_nan=rewind` goes on with the weights and the optimizer of the last checkpoint, and with nothing else of it."""

    class Rewinds(Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 0:
                trainer.save_checkpoint(tmp_path / "a.ckpt")
                self.weights = pl_module.layer.weight.detach().clone()
            if batch_idx == 2:
                self.step = lightning_internals.load_weights_and_optimizer(trainer, tmp_path / "a.ckpt", seen.append)
                self.same = torch.equal(pl_module.layer.weight, self.weights)
                self.updates = trainer.optimizers[0].state[pl_module.layer.weight]["step"].item()

    seen: list[dict[str, Any]] = []
    rewinds = Rewinds()
    trainer = make_trainer(tmp_path, 3, [rewinds])
    trainer.fit(Module(), datamodule=Data(3))
    assert (rewinds.step, rewinds.same, rewinds.updates, trainer.global_step) == (1, True, 1.0, 3)
    assert "state_dict" in seen[0]


# --- Lightning: strategy, precision, loggers --------------------------------------------------------------------------


def test_ranks_and_devices_before_and_outside_of_the_loop(tmp_path: Path) -> None:
    """Figures are exact over all ranks, and a step is timed and micro-batches are tried out before training begins."""

    class Times(Callback):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            assert lightning_internals.all_agree(trainer, True) and not lightning_internals.all_agree(trainer, False)
            assert lightning_internals.from_rank_0(trainer, "mine") == "mine"
            with lightning_internals.autocast(trainer):
                self.computed_in = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

        def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            drawn = torch.get_rng_state()
            with lightning_internals.same_random_numbers():
                for last in (False, True):
                    lightning_internals.backward(trainer, torch.rand(2, 2), last)
            assert torch.equal(torch.get_rng_state(), drawn)
            self.gradient = pl_module.layer.bias.grad.item()  # 2 rows in each of 2 micro-batches
            pl_module.zero_grad()

    times = Times()
    trainer = make_trainer(tmp_path, 1, [times], precision="bf16-mixed")
    assert lightning_internals.device_of(trainer) == torch.device("cpu")
    assert lightning_internals.reduced(trainer, torch.ones(2), "mean").tolist() == [1.0, 1.0]
    assert not lightning_internals.is_sharded(trainer)
    trainer.fit(Module(), datamodule=Data(1))
    assert times.computed_in == torch.bfloat16 and times.gradient == 4.0


def test_sharded_weights_are_saved_whole(tmp_path: Path) -> None:
    """`trainer.strategy=fsdp` leaves checkpoints that every command reads on one device."""
    strategy: Any = lightning_internals.sharded_strategy()
    assert strategy._save_distributed_checkpoint is False
    assert hasattr(type(strategy), "block_backward_sync")


def test_who_unscales_gradients_of_16_mixed(tmp_path: Path) -> None:
    """Gradients are clipped by their true norm: Lightning leaves unscaling to fused optimizers, which do it too late."""
    assert lightning_internals.grad_scaler(make_trainer(tmp_path, 1)) is None
    assert MixedPrecision("16-mixed", "cpu").scaler is not None
    weight = torch.nn.Parameter(torch.ones(1))
    assert lightning_internals.unscales_itself(torch.optim.AdamW([weight], fused=True))
    assert not lightning_internals.unscales_itself(torch.optim.AdamW([weight], fused=False))


def test_what_a_checkpoint_must_have_besides_ours(tmp_path: Path) -> None:
    """A checkpoint is tried before a run is changed: by Lightning's own migration, and with the state of the scaler."""
    trainer = make_trainer(tmp_path, 1)
    assert lightning_internals.named_states(trainer) == {}
    trainer.strategy._precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))  # type: ignore[attr-defined]
    assert set(lightning_internals.named_states(trainer)["MixedPrecision"]) >= {"scale", "growth_factor"}
    old = {"pytorch-lightning_version": "2.0.0", "global_step": 3, "loops": {}, "callbacks": {}}
    assert lightning_internals.migrated(old, tmp_path / "a.ckpt")["pytorch-lightning_version"] == L.__version__
    assert old["pytorch-lightning_version"] == "2.0.0"
    for version in ({}, {"pytorch-lightning_version": "new"}):
        with pytest.raises((KeyError, ValueError)):
            lightning_internals.migrated({**version, "loops": {}}, tmp_path / "a.ckpt")


@pytest.mark.slow
def test_the_rank_before_there_is_a_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one process writes and speaks from the first line on: its rank comes from the environment at import."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    for name in ranks:
        monkeypatch.delenv(name, raising=False)
    assert _get_rank() is None
    for name, rank in (("SLURM_PROCID", 2), ("LOCAL_RANK", 1), ("RANK", 3)):  # each goes over the one before
        monkeypatch.setenv(name, str(rank))
        assert _get_rank() == rank
    ask = "from gptlab.training.lightning_internals import early_rank; print(early_rank())"
    clean = {key: value for key, value in os.environ.items() if key not in ranks}
    done = subprocess.run([sys.executable, "-c", ask], env={**clean, "LOCAL_RANK": "1"}, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_the_processes_of_torchrun_slurm_and_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun, srun and batch scripts work: Lightning takes the environment that it is given, and guesses nothing.

    The processes that it starts itself get our command line, and the run directory that Hydra would have named.
    """
    import lightning.pytorch.plugins.environments as public

    for environment in (ClusterEnvironment, LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment):
        assert getattr(public, environment.__name__) is environment
    assert SLURMEnvironment(auto_requeue=False).auto_requeue is False
    assert {"main_address", "main_port"} <= set(dir(ClusterEnvironment))
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "batch")
    mine = LightningEnvironment()
    trainer: Any = make_trainer(tmp_path, 1, plugins=[mine])
    assert trainer._accelerator_connector.cluster_environment is mine
    assert "sys.argv[1:]" in inspect.getsource(subprocess_script._basic_subprocess_cmd)
    source = inspect.getsource(subprocess_script._hydra_subprocess_cmd)
    assert "sys.argv[1:]" in source and "HydraConfig.get().run.dir" in source  # where HydraConfig is set


@pytest.mark.parametrize(
    "wrong", [{"precision": "9"}, {"strategy": "hope"}, {"accelerator": "abacus"}, {"devices": 0}, {"devices": "many"}]
)
def test_what_a_machine_does_not_have_is_a_mistake(wrong: dict[str, Any], tmp_path: Path) -> None:
    """A mistake in `trainer` is one line: the constructor raises, and nothing was written."""
    with pytest.raises(lightning_internals.TRAINER_MISTAKES):
        make_trainer(tmp_path, 1, **wrong)
    assert not any(tmp_path.iterdir())


def test_tensorboard_events_lie_in_the_run_directory(tmp_path: Path) -> None:
    """A run directory holds what it needs and no more, and the curves of a resumed run go on where it does."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    logger: Any = lightning_internals.tensorboard_logger(tmp_path, 3)
    logger.log_metrics({"a": 1.0}, step=3)
    assert callable(logger.experiment.file_writer.add_summary) and callable(logger.experiment.add_histogram_raw)
    logger.save()
    logger.finalize("success")
    (file,) = tmp_path.iterdir()  # no hparams.yaml, no folder
    events = list(EventFileLoader(str(file)).Load())
    assert any(event.step == 3 and event.session_log.status == SessionLog.START for event in events)


def test_dashboards_find_a_resumed_run_again() -> None:
    """A resumed run is one curve: MLflow and Weights & Biases take its id, and MLflow's parameters are written once."""
    assert {"experiment_name", "run_name", "tracking_uri", "run_id"} <= set(inspect.signature(MLFlowLogger).parameters)
    assert list(inspect.signature(MLFlowLogger.log_hyperparams).parameters) == ["self", "params"]
    assert isinstance(MLFlowLogger.run_id, property)
    assert set(inspect.signature(lightning_internals.mlflow_logger).parameters) >= {"run_id"}
    assert {"id", "project", "kwargs"} <= set(inspect.signature(WandbLogger).parameters)


def test_a_profile_is_of_training_alone(tmp_path: Path) -> None:
    """`trainer.profile` traces training micro-batches 4 to 6, whatever is validated in between."""
    profiler = lightning_internals.profiler(tmp_path / "profile")
    make_trainer(tmp_path, 8, profiler=profiler).fit(Module(), datamodule=Data(8))
    assert len(list((tmp_path / "profile").glob("fit-operators*training_step*.json"))) == 1
    assert "Self CPU" in (tmp_path / "profile/fit-operators.txt").read_text()


def test_advice_that_does_not_fit_is_recognised() -> None:
    """Nothing stands on standard error of a good run: Lightning's hints have the texts that we silence."""
    sources = [Path(L.__file__).parent, Path(torch.__file__).parent / "utils/_pytree.py"]
    files = [path for source in sources for path in (source.rglob("*.py") if source.is_dir() else [source])]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    for advice in lightning_internals.ADVICE:
        assert re.search(advice, text), advice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lightning_internals.silence_advice()
        warnings.warn("The 'train_dataloader' does not have many workers which may be a bottleneck", stacklevel=1)


# --- Hydra and OmegaConf ----------------------------------------------------------------------------------------------


class Mistake(ValueError):
    pass


@dataclasses.dataclass
class Part:
    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 0:
            raise Mistake("n")


@dataclasses.dataclass
class Whole:
    part: Part = dataclasses.field(default_factory=Part)
    anything: Any = MISSING
    name: str = "x"
    run_dir: str = MISSING


MAIN = """
defaults: [/contract/Whole@_here_, _self_, {anything: one}]
name: ${hydra:runtime.choices.anything}
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a config tree over the two dataclasses."""
    for node in (Whole, Part):
        hydra_internals.store(node.__name__, node, "contract")
    (tmp_path / "conf/anything").mkdir(parents=True)
    (tmp_path / "conf/main.yaml").write_text(MAIN)
    for option in ("one", "two"):
        (tmp_path / f"conf/anything/{option}.yaml").write_text("defaults: [/contract/Part@_here_]\n")
    return tmp_path / "conf"


@contextmanager
def composed(conf: Path, *overrides: str) -> Iterator[Any]:
    with hydra_internals.composed(str(conf), "main", [*overrides, f"hydra.searchpath=[file://{conf}]"]) as (cfg, _, _):
        yield cfg


def test_a_composed_config_has_the_types_of_its_schemas_and_knows_its_choices(conf: Path) -> None:
    """`gptlab.config.compose` gives in Python what the command gives, typed objects, as often as one likes."""
    for option in ("one", "two"):
        with composed(conf, f"anything={option}") as cfg:
            assert cfg.name == option  # ${hydra:...}
            assert [OmegaConf.get_type(node) for node in (cfg, cfg.part, cfg.anything)] == [Whole, Part, Part]
            assert OmegaConf.is_missing(cfg, "run_dir") and "hydra" not in cfg
    assert not HydraConfig.initialized()


def test_the_store_of_options_is_shared_and_stays_as_it_is(conf: Path) -> None:
    """Composing does not copy all options, and what is composed can be changed without changing them."""
    hydra_internals.share_the_store()
    store = ConfigStore.instance()
    assert copy.deepcopy(store) is store
    before = OmegaConf.to_yaml(store.load("contract/Whole.yaml").node)
    for _ in range(2):
        with composed(conf, "+part.more=1", "part.n=7") as cfg:
            cfg.part.n = 8
    assert OmegaConf.to_yaml(store.load("contract/Whole.yaml").node) == before
    assert store.load("contract/Part.yaml").node is not store.load("contract/Part.yaml").node


def test_a_dataclass_is_stored_once_and_gives_way_to_another() -> None:
    hydra_internals.store("Part", Part, "contract")
    before = ConfigStore.instance().repo["contract"]["Part.yaml"]
    hydra_internals.store("Part", Part, "contract")
    assert ConfigStore.instance().repo["contract"]["Part.yaml"] is before
    for other in (Whole, {"n": 3}, {"n": 4}, Part):
        hydra_internals.store("Part", other, "contract")
        node = hydra_internals.stored("Part", "contract")
        assert node == OmegaConf.structured(other) and OmegaConf.get_type(node) in (other, dict)
    assert hydra_internals.stored("None", "contract") is None


def test_a_text_is_parsed_once(conf: Path) -> None:
    """What a text gives is looked up each time that it is asked for; one that cannot be parsed is refused each time."""
    hydra_internals.parse_once()
    hydra_internals.parse_once()  # no cache of a cache
    found = OmegaConf.create({"name": "one", "whole": "<${name}>"})
    parsed = base.parse.cache_info()
    for name in ("one", "two"):
        found.name = name
        assert found.whole == f"<{name}>"
        with pytest.raises(GrammarParseError):
            OmegaConf.create({"wrong": "${name"})
    more = base.parse.cache_info()
    assert more.misses - parsed.misses <= 3 and more.hits > parsed.hits and _utils.parse is base.parse
    for option in ("one", "two"):
        with composed(conf, f"anything={option}") as cfg:
            assert cfg.name == option


def test_a_copy_of_a_node_has_notes_of_its_own() -> None:
    """No note of a copy is one of the original's, and all of them are what they were: types, flags, cached values."""
    hydra_internals.copy_notes_quickly()
    found = OmegaConf.structured(Whole())
    OmegaConf.set_struct(found, True)
    found._metadata.resolver_cache["x"]["y"] = [1]
    made = copy.deepcopy(found)
    for ours, own in ((made, found), (made.part, found.part), (made._get_node("name"), found._get_node("name"))):
        assert vars(ours._metadata) == vars(own._metadata) and type(ours._metadata) is type(own._metadata)
        assert ours._metadata.flags is not own._metadata.flags
        assert ours._metadata.resolver_cache is not own._metadata.resolver_cache
    OmegaConf.set_struct(made, False)
    made._metadata.resolver_cache["x"]["y"].append(2)
    made._metadata.resolver_cache["z"]["y"] = 3  # it makes what it lacks
    assert OmegaConf.is_struct(found) and found._metadata.resolver_cache == {"x": {"y": [1]}}
    assert OmegaConf.get_type(made.part) is Part
    with pytest.raises(ValidationError):
        made.part.n = "abc"


def test_a_file_is_parsed_once_until_its_text_is_another(conf: Path) -> None:
    hydra_internals.read_once()
    hydra_internals.read_once()
    for text in ("x: 1\n", "x: 2\n", "x: 1\n"):
        Path("some.yaml").write_text(text)
        for _ in range(2):
            with Path("some.yaml").open() as file:
                found = OmegaConf.load(file)
            assert found == OmegaConf.load("some.yaml") == {"x": int(text[3])}
            found.x = 7  # which is nobody else's
    Path("some.yaml").write_text("x: [")
    for _ in range(2):
        with Path("some.yaml").open() as file, pytest.raises(YAMLError, match=r"some\.yaml"):
            OmegaConf.load(file)
    with composed(conf) as cfg:
        cfg.name = "changed"
    (conf / "main.yaml").write_text(MAIN.replace("anything: one", "anything: two"))
    with composed(conf) as cfg:
        assert cfg.name == "two"


def test_options_are_merged_once(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is what Hydra merges anew, is nobody else's, and is merged again when a file or an option is another."""
    hydra_internals.merge_once()
    hydra_internals.merge_once()
    own: Any = ConfigLoaderImpl._compose_config_from_defaults_list
    own.kept.clear()

    def notes(node: Any) -> list[Any]:
        """Return what is noted of a node and of all that it has."""
        noted = [vars(node._metadata) | {"text": None, "resolver_cache": None}]  # which has the time of day
        inner = node._content if isinstance(node, DictConfig | ListConfig) else ()
        each = inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
        return noted + [every for one in each for every in notes(one)]

    def found(*overrides: str) -> tuple[str, list[Any]]:
        with composed(conf, *overrides) as cfg:
            result = OmegaConf.to_yaml(cfg), notes(cfg)
            cfg.part.n = 99
            OmegaConf.set_readonly(cfg.part, True)
        return result

    lines = [["anything=one"], ["anything=two"], ["anything=one", "part.n=5"], ["anything=two", "+part.more=1"]]
    kept = [found(*line) for line in lines for _ in range(2)]
    assert len(own.kept) == 2 and not any(cfg._metadata.resolver_cache for cfg, _ in own.kept.values())
    with monkeypatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", own.__wrapped__)
        assert kept == [found(*line) for line in lines for _ in range(2)]
    for time in ("one", "two"):
        now = SimpleNamespace(strftime=lambda _, time=time: time)
        monkeypatch.setattr("hydra.core.utils.datetime", SimpleNamespace(now=lambda now=now: now))
        with hydra_internals.composed(str(conf), "main", []) as (_, run_dir, _):
            assert run_dir == f"outputs/{time}/{time}"
    hydra_internals.store("Part", {"n": 77}, "contract")
    assert "'n': 77" in found("anything=one")[0]
    (conf / "anything/one.yaml").write_text("n: 66\n")
    assert "'n': 66" in found("anything=one")[0] and len(own.kept) == 4
    hydra_internals.store("one", Whole, "anything")  # by which Hydra 1.3 checks a file of the same name
    outcomes: list[Any] = []
    for merge in (own.__wrapped__, own):
        monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge)
        try:
            outcomes.append(found("anything=one"))
        except ConfigCompositionException:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
    hydra_internals.forget("anything")


def test_a_default_may_name_the_choice_of_another_group(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra maps its choices for such a default alone: for no other config of the tree."""
    hydra_internals.map_choices_where_asked()
    made: list[Any] = []
    own: Any = getattr(defaults_list, "_create_interpolation_map", None)
    if own is not None:  # Hydra 1.3
        spy: Any = lambda *given: made.append(own(*given)) or made[-1]  # noqa: E731
        monkeypatch.setattr(defaults_list, "_create_interpolation_map", spy)
    for option in ("one", "two"):
        with composed(conf, f"anything={option}") as cfg:
            assert cfg.name == option
    assert bool(made) == (own is not None) and not any(made)
    (conf / "follows").mkdir()
    (conf / "follows/two.yaml").write_text("# @package _global_\nname: followed\n")
    (conf / "main.yaml").write_text(MAIN.replace("one}]", "one}, {follows: '${anything}'}]"))
    made.clear()
    with composed(conf, "anything=two") as cfg:
        assert cfg.name == "followed"
    assert [each.anything for each in made if each] == (["two"] if own is not None else [])


def test_a_mistake_in_a_value_comes_out_as_it_was_raised(conf: Path) -> None:
    """A mistake is named by its full key: what a dataclass raises when it is built is not wrapped."""
    with composed(conf, "part.n=-1") as cfg, pytest.raises(Mistake):
        OmegaConf.to_object(cfg.part)


def test_a_plus_adds_keys_that_we_must_refuse(conf: Path) -> None:
    """Unknown keys are refused by name, also where Hydra's + lets them in."""
    with composed(conf, "+part.more=1") as cfg:
        assert "more" in cfg.part and "more" not in {f.name for f in dataclasses.fields(Part)}


def test_what_errors_know_of_a_mistake(conf: Path) -> None:
    """A mistake is one line that names the key, its owner and what there is instead."""

    def error(*overrides: str) -> Exception:
        kinds = (hydra.errors.HydraException, omegaconf.errors.OmegaConfBaseException)
        with pytest.raises(kinds) as caught, composed(conf, *overrides):
            pass
        return caught.value

    assert hydra_internals.unknown_option(error("anything=three")) == ("anything", "three", ["one", "two"])
    unreadable: Any = error("name=a b=c")
    assert isinstance(unreadable, hydra.errors.OverrideParseException) and unreadable.override == "name=a b=c"
    assert hydra_internals.key_mistake(error("part.m=1")) == ("part.m", "m", Part, None)
    why = "Value 'abc' of type 'str' could not be converted to Integer"
    assert hydra_internals.key_mistake(error("part.n=abc")) == ("part.n", "n", Part, why)
    assert hydra_internals.overridden_key(error("nothing.k=1")) == "nothing.k"
    assert hydra_internals.misfit(error("part=5")) == (
        "part=5",
        "Invalid type assigned: int is not a subclass of Part. value: 5",
    )


def test_the_grammar_of_overrides() -> None:
    """A value may hold any character, jobs of a sweep are named by what differs, and flags keep their values.

    A bare value may not hold `=`: where that passes, quoting it is not needed any more.
    """
    text = "it's a \\ b, {c} [d] = # ü ${"
    assert hydra_internals.parsed(hydra_internals.in_quotes(text)) == text
    with pytest.raises(hydra.errors.HydraException):
        hydra_internals.parsed("0-seed=1")
    assert hydra_internals.parsed("nan") != hydra_internals.parsed("nan")  # a number
    assert hydra_internals.swept_keys(["a.b=1,2", "c=3", "+d=x", "c=4,5"]) == {"a.b": True, "c": True, "+d": False}
    from hydra._internal.utils import get_args_parser

    with_value = {
        flag for action in get_args_parser()._actions if action.nargs is None for flag in action.option_strings
    }
    others = {"--cfg", "-c", "--experimental-rerun", "--shell-completion", "-sc"}
    assert with_value - set(hydra_internals.VALUE_FLAGS) <= others


def test_a_launcher_gets_the_config_and_the_error_of_each_job() -> None:
    """One refused job of a sweep does not end the others, and a search gets its figure from every one."""
    given = {"task_function", "config", "job_dir_key", "job_subdir_key", "hydra_context"}
    assert given <= set(inspect.signature(run_job).parameters)
    record = JobReturn()
    record._return_value, record.status = Mistake("n"), JobStatus.FAILED
    with pytest.raises(Mistake):
        _ = record.return_value
    hydra_internals.complete_job(record, 0.5)
    assert record.return_value == 0.5
    assert set(inspect.signature(Launcher.setup).parameters) == {"self", "hydra_context", "task_function", "config"}
    assert list(inspect.signature(Launcher.launch).parameters) == ["self", "job_overrides", "initial_job_idx"]
    assert "config_loader" in HydraContext.__dataclass_fields__
    assert list(inspect.signature(ConfigLoader.load_sweep_config).parameters)[1:] == [
        "master_config",
        "sweep_overrides",
    ]


LAUNCHER = """
from hydra._internal import defaults_list
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.launcher import Launcher
from gptlab.config import hydra_internals

class Ours(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides, initial_job_idx):
        hydra_internals.start_launcher(self.config)
        records = []
        for i, overrides in enumerate(job_overrides):
            composed = hydra_internals.compose_job(self.context, self.config, overrides)
            assert [f"part.n={composed.part.n}"] == overrides, "no job begins by this"
            record, value, error = hydra_internals.prepare_job(self.context, self.config, overrides, i, prepare)
            print(i, value, repr(error), flush=True)
            hydra_internals.complete_job(record, float(i))
            records.append(record)
        return records

def prepare(cfg):
    if cfg.part.n < 0:
        raise ValueError("n")
    job = HydraConfig.get()
    return job.job.num, job.runtime.output_dir.rpartition("/")[2], list(job.overrides.task), job.mode.name
"""
APP = """
import sys
from gptlab.config import hydra_internals
from hydra_plugins.contract_launcher import prepare

hydra_internals.store("Whole", {"part": {"n": 1}}, "contract")
hydra_internals.store("Part", {}, "contract")
hydra_internals.store("ours", {"_target_": "hydra_plugins.contract_launcher.Ours"}, "hydra/launcher")
try:
    hydra_internals.run_command_line(sys.argv.pop(), "main", prepare)
except ValueError as error:
    print("raised", error)
"""


def test_hydra_runs_a_command_line_for_us(conf: Path, tmp_path: Path) -> None:
    """The command hands a line over to Hydra, which sweeps by our launcher; an error comes out as it was raised.

    Hydra finds plugins in all folders of the package hydra_plugins.
    """
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins/contract_launcher.py").write_text(LAUNCHER)
    (tmp_path / "app.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def run(*argv: str) -> str:
        quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
        command, env = [sys.executable, "app.py", *argv, *quiet, str(conf)], {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert "Warning" not in done.stderr
        return done.stdout

    sweep = ["hydra/launcher=ours", "hydra.sweep.dir=out", "hydra.sweep.subdir=job${hydra.job.num}"]
    said = run("-m", "part.n=1,-1", *sweep)
    assert said == "0 (0, 'job0', ['part.n=1'], 'MULTIRUN') None\n1 None ValueError('n')\n"
    assert run("part.n=-1", "hydra.run.dir=out") == "raised n\n"


def test_nothing_that_we_use_is_deprecated(conf: Path) -> None:
    """Standard error of a good run is empty: what the next version will refuse is not used by us."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hydra_internals.silence_advice()
        for _ in range(2):  # a process composes more than once
            hydra_internals.register_resolver("contract", lambda text: text)
            hydra_internals.store("Part", Part, "contract")
            with composed(conf) as cfg:
                assert cfg.part.n == 1
    assert hydra_internals.is_stored("Part", "contract") and not hydra_internals.is_stored("None", "no/group")
    hydra_internals.forget("contract")
    assert not hydra_internals.is_stored("Part", "contract")


# --- torch, TensorBoard, tiktoken -------------------------------------------------------------------------------------


def test_private_operators_of_torch() -> None:
    """Weight averages, muon and fast decoding on a CPU compute what their plain formulas say."""
    from gptlab.decoding.onednn import OneDNNLinear

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])
    assert torch._foreach_lerp([a], [b], 0.25)[0].tolist() == [1.5, 3.0]
    torch._foreach_lerp_([a], [b], 0.5)
    torch._foreach_mul_([a], 2.0)
    torch._foreach_add_([a], [b], alpha=-1.0)
    assert a.tolist() == [1.0, 2.0]
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # else it is not used
        linear, x = torch.nn.Linear(8, 4), torch.randn(2, 8)
        assert torch.allclose(OneDNNLinear(linear)(x), linear(x), atol=1e-6)
        assert isinstance(torch.ops.mkldnn._is_mkldnn_bf16_supported(), bool)
    assert callable(torch.default_generator.manual_seed) and torch.get_device_module("cpu") is torch.cpu


def test_summaries_of_tensorboard() -> None:
    """TensorBoard's table compares runs, with the keys that a sweep has chosen first."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard.summary import hparams

    experiment, begin, end = hparams({"lr": 0.1}, {"val/loss": float("nan")})
    data = HParamsPluginData.FromString(experiment.value[0].metadata.plugin_data.content)
    assert [info.name for info in data.experiment.hparam_infos] == ["lr"] and begin.value and end.value


def test_the_vocabularies_of_tiktoken() -> None:
    """`tokenizer=gpt2` and its kind name vocabularies that tiktoken knows."""
    from tiktoken_ext import openai_public

    assert {"gpt2", "cl100k_base", "o200k_base"} <= set(openai_public.ENCODING_CONSTRUCTORS)


# --- none is forgotten ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("internals", [lightning_internals, hydra_internals])
def test_every_name_has_a_contract(internals: Any) -> None:
    tree = ast.parse(Path(internals.__file__).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    tested = set(
        re.findall(rf"{internals.__name__.rpartition('.')[2]}(?:\.| import )(\w+)", Path(__file__).read_text())
    )
    assert names <= tested
