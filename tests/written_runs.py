import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

MODEL = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": 257}
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run directory as training leaves it: make_run(folder, loss=2.0, config={...}, summary={...}, rows=[...])."""

    def make_run(
        folder: str,
        /,
        loss: float | None = 2.0,
        status: str = "finished",
        rows: list[str] | None = None,
        samples: str = "",
        tokenizer: str = "one",
        summary: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Path:
        path = tmp_path / "runs" / folder
        (path / "tokenizer").mkdir(parents=True)
        (path / "tokenizer/tokenizer.json").write_text(tokenizer)
        config: dict[str, Any] = {
            "defaults": ["/schema/TrainConfig@_here_", "/schema/AdamW@optimizer", "_self_"],
            "model": dict(MODEL),
            "data": {"batch_size": 4},
            "optimizer": {"lr": 0.001},
            "budget": {"steps": 10, "tokens": None},
            "sample_prompts": ["the cat", "a | <b>"],
            "name": "nano",
            "seed": 1,
        }
        for key, value in settings.items():
            group, _, field = key.partition("__")
            if field:
                config[group] = {**config.get(group, {}), field: value}
            else:
                config[group] = value
        (path / "config.yaml").write_text(yaml.safe_dump(config))
        told: dict[str, Any] = {"status": status}
        if status != "running":
            told |= {"parameters": 7000, "steps": 10, "tokens": 1280, "flops": 1280 * 1000, "seconds": 3.5}
            told |= {"tokens_per_second": 512.0, "train_loss": loss, "val_loss": loss, "val_perplexity": 7.4}
            told |= {"val_bits_per_byte": None if loss is None else loss / 2, "data_hash": "d", "seed": config["seed"]}
        (path / "summary.json").write_text(json.dumps(told | (summary or {})))
        head = "step,train/loss,train/tokens_per_second,val/loss,val/bits_per_byte"
        lines = rows if rows is not None else ["5,3.0,256,,", "5,,,2.5,1.25", "10,2.2,512,,", f"10,,,{loss},{loss}"]
        (path / "metrics.csv").write_text("\r\n".join([head, *lines, ""]))
        if samples:
            (path / "samples.md").write_text(samples)
        return path

    return make_run
