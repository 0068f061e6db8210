"""What a run writes down of its config is its config."""

import dataclasses
from pathlib import Path

import yaml

from gptlab.config import compose
from gptlab.config.record import record


def test_a_run_s_record_composes_again(tmp_path: Path) -> None:
    config = compose("train", ["experiment=verdict", "decoder=top_p", "decoder.p=0.5", "seed=9"])
    saved = record(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved, sort_keys=False))
    again = compose("train", config_dir=tmp_path, config_name="config")
    assert dataclasses.replace(again, run_dir=config.run_dir) == config
    assert "run_dir" not in saved
