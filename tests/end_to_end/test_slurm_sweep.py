"""A sweep over a Slurm of two nodes, both of them this machine, with a model and a callback of another package."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import tiny_overrides
from tests.end_to_end.test_sweeps import TRAIN, sweep_by_submitit
from tests.slurm import Slurm

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.new_processes]


MODEL = '''
from dataclasses import dataclass
import gptlab

@gptlab.option("model", "of_slurm")
@dataclass
class OfSlurm:
    """A table of logits by the token before."""
    block_size: int = 32
    vocab_size: int = 0
    def build(self):
        from torch import nn
        return nn.Embedding(self.vocab_size, self.vocab_size)
'''


def test_the_ranks_of_a_job_on_two_nodes(slurm: Slurm, texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for key, value in slurm.env.items():
        monkeypatch.setenv(key, value)
    Path("of_slurm").mkdir()
    Path("of_slurm/__init__.py").write_text(MODEL)
    Path("of_slurm/quiet.py").write_text("from lightning.pytorch import Callback\nclass Quiet(Callback): ...\n")
    Path("gptlab.toml").write_text('plugins = ["of_slurm"]\n')
    ask = ["model=of_slurm", *(each for each in tiny_overrides(texts) if not each.startswith("model."))]
    ask.append("+callbacks.others.quiet._target_=of_slurm.quiet.Quiet")
    cluster = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=5"]
    one, two = sweep_by_submitit("-m", *ask, *cluster, "trainer.num_nodes=2", "trainer.devices=1", "seed=1,2")
    done = subprocess.run([*TRAIN, *ask, "seed=2", "run_dir=alone", "json=true"], capture_output=True, check=True)
    assert two["val_loss"] == pytest.approx(json.loads(done.stdout)["val_loss"], abs=2e-6)
    assert one["val_loss"] != two["val_loss"]
    logs = [path.read_text() for path in Path("outputs/multirun").rglob("*_0_log.out")]
    assert len(logs) == 2 and all("on 2 x cpu" in log for log in logs)
