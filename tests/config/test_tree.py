"""Every option composes and changes something; every mistake is one line that names the key."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gptlab import registry
from gptlab.commands.main import main
from gptlab.commands.usage import options
from gptlab.config import compose
from gptlab.decoding.decoders import Greedy, TopK
from gptlab.files import conf_dir
from gptlab.registry import option
from gptlab.runs.config_file import record
from gptlab.training.config import TrainConfig

GROUPS = ["model", "data", "tokenizer", "optimizer", "schedule", "decoder", "trainer", "logger"]
GROUPS += ["adapter", "callbacks", "experiment", "debug"]
OPTIONS = [(group, name) for group in GROUPS for name in options(group)]


def plain(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in record(config).items() if k != "name"}


def test_the_groups_hold_what_they_promise() -> None:
    promised = {
        "model": {"gpt", "nano", "micro", "small", "medium", "large", "xl"},
        "data": {"bundled", "stories", "text", "tokens", "mixture", "hub", "download", "shakespeare", "verdict"},
        "tokenizer": {"bpe", "gpt2", "char", "byte", "json", "saved"},
        "decoder": {"greedy", "sample", "top_k", "top_p", "min_p", "typical", "beam"},
        "trainer": {"default", "cpu", "gpu", "ddp"},
        "logger": {"tensorboard", "csv", "none", "wandb", "mlflow"},
    }
    for group, names in promised.items():
        assert set(options(group)) >= names
    assert set(options("callbacks")) == {"none", "monitor"}
    assert set(options("debug")) == {"fast", "overfit", "profile", "nan"}
    assert set(options("experiment")) == {
        "shakespeare_char",
        "modern_char",
        "stories",
        "verdict",
        "book_ch5",
        "continue",
        "sft",
        "spam",
        "dpo",
        "ladder",
        "data_limited",
    }
    assert set(options("hardware")) == {"a100", "b200", "h100", "h200", "l4", "rtx4090"}
    assert set(options("adapter")) == {"lora", "dora", "last_n", "bitfit", "head"}


def test_a_primary_config_in_a_folder_of_one_s_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`--config-name` finds it in `--config-dir`, with the options beside it, however Hydra is asked."""
    folder = tmp_path / "my presets"
    (folder / "model").mkdir(parents=True)
    (folder / "model/deep.yaml").write_text("defaults: [nano]\nn_layer: 9\n")
    (folder / "mine.yaml").write_text("defaults: [train, override model: deep, _self_]\nbudget: {steps: 7}\n")
    for name in ("mine", "mine.yaml"):
        config = compose("train", ["seed=3"], config_dir=folder, config_name=name)
        assert (config.model.n_layer, config.model.n_embd, config.budget.steps, config.seed) == (9, 128, 7, 3)
    assert compose("train", config_dir=folder).budget.steps == 900  # the verb's own, with further options
    flags = ["--config-dir", str(folder), "--config-name", "mine"]
    assert main(["train", *flags, "--cfg", "job"]) == 0
    assert "n_layer: 9" in capfd.readouterr().out
    assert main(["train", *flags, "budget.tokens=1"]) == 2  # found and composed
    assert "budget.tokens=1.0: and budget.steps are given" in capfd.readouterr().err
    (folder / "train.yaml").write_text("budget: {steps: 8}")  # conf/ goes first
    assert compose("train", config_dir=folder, config_name="train").budget.steps == 900


def test_no_file_only_repeats_a_registration() -> None:
    for group in registry.groups():
        for path in (conf_dir() / group).glob("*.yaml"):
            lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
            assert lines != [f"defaults: [/schema/{group}/{path.stem}@_here_]"], path


# options that name something
NEEDED = {
    "tokens": ["data.folder=f"],
    "mixture": ["+data@data.parts.a=verdict"],
    "json": ["tokenizer.file=tokenizer.json"],
    "nanogpt": ["tokenizer.file=tokenizer.json"],
    "saved": ["tokenizer.folder=."],
    "instructions": ["task=sft"],
    "labelled": ["task=classification"],
    "preferences": ["task=preference", "init_from=run"],
    "dpo": ["init_from=run"],
    **{key: ["init_from=run"] for key in ("lora", "dora", "last_n", "bitfit", "head")},
}


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_into_something_of_its_own(group: str) -> None:
    of_tests = {name for name, part in registry.options(group).items() if part.__module__.startswith("tests.")}
    names = [name for name in options(group) if name not in of_tests]
    names = [name for name in names if (group, name) != ("tokenizer", "openai")]  # gpt2 is its default
    Path("tokenizer.json").write_text("{}")
    configs = [plain(compose("train", [f"{group}={name}", *NEEDED.get(name, [])])) for name in names]
    for i, config in enumerate(configs):
        assert config not in configs[:i], names[i]


@pytest.mark.parametrize(("group", "name"), [(g, o) for g, o in OPTIONS if g in ("data", "decoder")])
def test_verbs_share_the_groups(group: str, name: str) -> None:
    verb = {"data": "evaluate", "decoder": "sample"}[group]
    needed = {
        v: [each for each in NEEDED.get(name, []) if v == "train" or not each.startswith(("task=", "init_from="))]
        for v in (verb, "train")
    }
    mine, theirs = (getattr(compose(v, [f"{group}={name}", *more]), group) for v, more in needed.items())
    assert mine == theirs


def test_typed_objects_all_the_way() -> None:
    config = compose("train", ["decoder=top_k", "decoder.k=7", "sample_prompts=[a,b]"])
    assert isinstance(config, TrainConfig)
    assert config.decoder == TopK(temperature=1.0, k=7)
    assert type(config.sample_prompts) is list
    assert compose("sample", ["decoder=greedy"]).decoder == Greedy()


def test_the_default_config_is_what_train_composes() -> None:
    """But for what conf/ chooses: the rate by the width, and the name of the model's preset."""
    composed = compose("train")
    optimizer = dataclasses.replace(composed.optimizer, lr=6e-4)
    assert dataclasses.replace(composed, optimizer=optimizer, name="run", preset=None, run_dir=None) == TrainConfig()


@pytest.mark.parametrize("verb", ["sample", "evaluate", "tokenize", "audit", "report"])
def test_the_default_config_of_other_verbs(verb: str) -> None:
    assert compose(verb) == registry.find_command(verb).config_type()


def test_the_rate_falls_with_the_width() -> None:
    rates = {size: compose("train", [f"model={size}"]).optimizer.lr for size in ("nano", "small", "xl")}
    assert rates["small"] == pytest.approx(6e-4)
    assert rates["nano"] > rates["small"] > rates["xl"]
    assert compose("train", ["optimizer.lr=0.5"]).optimizer.lr == 0.5


def test_a_class_that_is_only_registered_is_an_option() -> None:
    @option("decoder", "eta_of_this_test")
    @dataclasses.dataclass
    class Eta:
        """Only here."""

        eta: float = 0.3

    try:
        assert compose("train", ["decoder=eta_of_this_test", "decoder.eta=0.5"]).decoder == Eta(0.5)
        assert "eta_of_this_test" in options("decoder")
    finally:
        del registry._OPTIONS["decoder"]["eta_of_this_test"]
