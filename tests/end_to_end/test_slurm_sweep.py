"""A sweep over a Slurm of two nodes, both of them this machine."""

from pathlib import Path

import pytest

from gptlab.config import compose
from gptlab.training.run import train
from tests.conftest import tiny_overrides
from tests.end_to_end.test_sweeps import sweep
from tests.slurm import Slurm

pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def test_the_ranks_of_a_job_on_two_nodes(slurm: Slurm, texts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    for key, value in slurm.env.items():
        monkeypatch.setenv(key, value)
    cluster = ["hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2", "hydra.launcher.timeout_min=5"]
    one, two = sweep("-m", *tiny_overrides(texts), *cluster, "trainer.num_nodes=2", "trainer.devices=1", "seed=1,2")
    alone = train(compose("train", [*tiny_overrides(texts), "seed=2", "run_dir=alone"]))
    assert alone is not None and two["val_loss"] == pytest.approx(alone["val_loss"], abs=2e-6)
    assert one["val_loss"] != two["val_loss"]
    logs = [path.read_text() for path in Path("outputs/multirun").rglob("*_0_log.out")]
    assert len(logs) == 2 and all("on 2 x cpu" in log for log in logs)
