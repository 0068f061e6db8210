"""A config that a run writes down is read back as the same config."""

import dataclasses
from pathlib import Path

from gptlab.config import compose
from gptlab.runs.config_file import record, write_config


def test_a_run_s_record_composes_again(tmp_path: Path) -> None:
    config = compose("train", ["experiment=verdict", "decoder=top_p", "decoder.p=0.5", "seed=9"])
    saved = record(config)
    write_config(tmp_path / "config.yaml", saved)
    again = compose("train", run=tmp_path)
    assert dataclasses.replace(again, run_dir=config.run_dir) == config
    assert "run_dir" not in saved
