"""Every option composes and changes something; every mistake is one line that names the key."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptlab.config import TrainConfig, compose, conf_dir, quote_values, quoted, record
from gptlab.decoding.decoders import Greedy, TopK

GROUPS = ["model", "data", "tokenizer", "optimizer", "schedule", "decoder", "trainer", "logger"]
GROUPS += ["callbacks", "experiment", "debug"]
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]


def plain(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in record(config).items() if k != "name"}


def test_the_groups_hold_what_they_promise() -> None:
    assert {option for group, option in OPTIONS if group == "model"} >= {
        "nano",
        "micro",
        "small",
        "medium",
        "large",
        "xl",
    }
    assert {option for group, option in OPTIONS if group == "data"} >= {"bundled", "text", "shakespeare", "verdict"}
    assert {option for group, option in OPTIONS if group == "tokenizer"} >= {"bpe", "gpt2", "char", "byte"}
    assert {option for group, option in OPTIONS if group == "decoder"} >= {"greedy", "sample", "top_k", "top_p"}
    assert {option for group, option in OPTIONS if group == "trainer"} >= {"default", "cpu", "gpu", "ddp"}
    assert {option for group, option in OPTIONS if group == "logger"} >= {
        "tensorboard",
        "csv",
        "none",
        "wandb",
        "mlflow",
    }
    assert {option for group, option in OPTIONS if group == "callbacks"} == {"none", "monitor"}
    assert {option for group, option in OPTIONS if group == "debug"} == {"fast", "overfit", "profile", "nan"}
    recipes = {option for group, option in OPTIONS if group == "experiment"}
    assert recipes == {"shakespeare_char", "modern_char", "verdict", "book_ch5"}


NEEDED = {"tokens": ["data.folder=f"], "mixture": ["+data@data.parts.a=verdict"]}  # options that name something


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_into_something_of_its_own(group: str) -> None:
    options = [option for g, option in OPTIONS if g == group]
    Path("tokenizer.json").write_text("{}")
    needed = {**NEEDED, "json": ["tokenizer.file=tokenizer.json"]}
    configs = [plain(compose("train", [f"{group}={option}", *needed.get(option, [])])) for option in options]
    for i, config in enumerate(configs):
        assert config not in configs[:i], options[i]


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g in ("data", "decoder")])
def test_verbs_share_the_groups(group: str, option: str) -> None:
    verb = {"data": "evaluate", "decoder": "sample"}[group]
    mine, theirs = (getattr(compose(v, [f"{group}={option}", *NEEDED.get(option, [])]), group) for v in (verb, "train"))
    assert mine == theirs


def test_typed_objects_all_the_way() -> None:
    config = compose("train", ["decoder=top_k", "decoder.k=7", "sample_prompts=[a,b]"])
    assert isinstance(config, TrainConfig)
    assert config.decoder == TopK(temperature=1.0, k=7)
    assert type(config.sample_prompts) is list
    assert compose("sample", ["decoder=greedy"]).decoder == Greedy()


def test_the_rate_falls_with_the_width() -> None:
    rates = {size: compose("train", [f"model={size}"]).optimizer.lr for size in ("nano", "small", "xl")}
    assert rates["small"] == pytest.approx(6e-4)
    assert rates["nano"] > rates["small"] > rates["xl"]
    assert compose("train", ["optimizer.lr=0.5"]).optimizer.lr == 0.5


def test_a_run_s_record_composes_again(tmp_path: Path) -> None:
    config = compose("train", ["experiment=verdict", "decoder=top_p", "decoder.p=0.5", "seed=9"])
    saved = record(config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved, sort_keys=False))
    again = compose("train", config_dir=tmp_path, config_name="config")
    assert dataclasses.replace(again, run_dir=config.run_dir) == config
    assert "run_dir" not in saved


def test_values_with_an_equals_sign_need_no_quotes(tmp_path: Path) -> None:
    """The names of a sweep's directories have them."""
    folder = f"{tmp_path}/2-optimizer.lr=1e-3,seed=2/it's"
    assert quote_values(["seed=2", "run='a=b'", "data.files=[a=b]", "--config-dir", "a=b=c", "choice(1=2)"]) == [
        "seed=2",
        "run='a=b'",
        "data.files=[a=b]",
        "--config-dir",
        "a=b=c",
        "choice(1=2)",
    ]
    assert compose("sample", [f"run={tmp_path}/0-seed=1,a=2"]).run == f"{tmp_path}/0-seed=1,a=2"
    assert compose("sample", [f"run={quoted(folder)}"]).run == folder
    assert quoted("a\\'b") == r"'a\\\'b'"
