"""The LightningModule in the hands of Lightning's users: Trainer.test, load_from_checkpoint, plain hparams."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch

import gptlab
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.module import GPTModule
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


def test_a_checkpoint_is_loaded_and_tested_with_nothing_but_lightning(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("optimizer.lr=0.02", "optimizer=adamw", "data.mask_documents=true", "data.packing=documents")
    summary = train(config)
    module = GPTModule.load_from_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    gpt, _ = gptlab.load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(module.gpt.parameters(), gpt.parameters(), strict=True))
    assert module.optimizer == config.optimizer and module.schedule == config.schedule
    assert module.hparams["optimizer"]["values"]["lr"] == 0.02 and type(module.hparams["seed"]) is int
    data = TextDataModule(prepare(config.data, config.tokenizer), config.data, 32, config.seed)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (found,) = trainer.test(module, data, verbose=False)
    assert found["test/loss"] == pytest.approx(summary["val_loss"], abs=1e-6)
    assert found["test/bits_per_byte"] == pytest.approx(summary["val_bits_per_byte"], abs=1e-6)
    (checked,) = trainer.validate(module, data, verbose=False) or [{}]
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(summary["val_loss"], abs=1e-6), checked
    changed = GPTModule.load_from_checkpoint(tmp_path / "run/checkpoints/last.ckpt", seed=5)
    assert changed.seed == 5


def test_a_part_that_is_not_here(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny())
    path = tmp_path / "run/checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["hyper_parameters"]["optimizer"]["option"] = "theirs"
    torch.save(saved, path)
    with pytest.raises(UserError, match=r"^optimizer=theirs: is not an option here"):
        GPTModule.load_from_checkpoint(path)
