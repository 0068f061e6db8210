"""Every option composes and changes something; every mistake is one line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from gptlab.config import TrainConfig, compose
from gptlab.config.record import record
from gptlab.config.tree import conf_dir
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
