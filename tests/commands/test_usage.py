"""Help shows what would run and what it means, for every verb, from the same sources as a run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gptlab import registry
from gptlab.commands.explanations import explanation
from gptlab.commands.main import main
from gptlab.commands.usage import keys, usage
from gptlab.config import compose
from gptlab.config.schema import part_fields
from gptlab.config.tree import compose_unchecked
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.runs.config_file import record, with_defaults
from gptlab.training.budget import Budget
from gptlab.training.config import TrainConfig


def values(text: str) -> dict[str, str]:
    """Return the keys of a help with their values."""
    found = re.findall(r"^  ([a-z][\w.]*) = (.*?)(?:  +\S.*)?$", text, re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("verb", registry.verbs())
def test_every_key_of_every_verb(verb: str) -> None:
    text = usage(verb, ["--help"]).plain
    groups = part_fields(registry.find_command(verb).config_type)
    assert set(values(text)) == {key for key, _, _ in keys(compose_unchecked(verb, [])[0])} - set(groups)
    assert max(map(len, text.splitlines())) <= 80
    assert "MISSING" not in text and "<" not in text and "None" not in values(text).values()


def test_the_help_of_train_is_the_run() -> None:
    text = usage("train", ["--help"]).plain
    shown = values(text)
    assert shown["budget.steps"] == "900" and shown["name"] == "nano" and shown["run_dir"] == "null"
    assert shown["model.n_embd"] == "128" and float(shown["optimizer.lr"]) == pytest.approx(
        6e-4 * (768 / 128) ** 0.5, rel=1e-5
    )
    for word in ("debug=null", "overfit", "experiment=null", "shakespeare_char", "xl", "typical"):
        assert word in text.split()
    assert " ".join(explanation(GPTConfig, "rope_low_freq").split()) in " ".join(text.split())


@pytest.mark.slow
def test_what_is_chosen_before_help_and_after_it() -> None:
    small = values(usage("train", ["model=small", "--help", "optimizer"]).plain)
    assert float(small.pop("optimizer.lr")) == 6e-4 and set(small) == {
        f"optimizer.{k}"
        for k in ("weight_decay", "beta1", "beta2", "eps", "hyperball", "cautious_weight_decay", "fused")
    }
    text = usage("train", ["--help", "optimizer=muon"]).plain
    assert values(text)["optimizer.momentum"] == "0.95" and "adafactor" in text and "Liu et al. 2025" in text
    assert set(values(usage("train", ["--help", "budget", "model.n_layer"]).plain)) >= {
        "budget.minutes",
        "model.n_layer",
    }
    debug = usage("train", ["--help", "debug"]).plain
    assert "one batch repeated: a correct model" in debug and values(debug) == {}
    assert values(usage("train", ["--help", "debug=fast"]).plain) == {}
    assert values(usage("train", ["debug=fast", "--help"]).plain)["budget.steps"] == "8"
    assert values(usage("evaluate", ["--help", "data=text"]).plain)["data.files"] == "[]"


def test_wrapped_lines_are_aligned(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "--help"]) == 0
    lines = capfd.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("  prompt = null"))
    column = lines[at].index("null: the run's")
    assert lines[at + 1][:column].strip() == "" and lines[at + 1][column] != " "
    assert lines[at] == lines[at].rstrip()


@pytest.mark.slow
def test_what_there_is_not_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--help=modle: no such group or key \(did you mean model\?\)"):
        usage("train", ["--help", "modle"])
    assert main(["train", "--help", "modle"]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("error: --help=modle: ") and err.count("\n") == 1
    assert main(["train", "model.n_layers=7", "--help"]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: model.n_layers=7: no such key of GPTConfig") and err.count("\n") == 1
    assert values(out)["model.n_layer"] == "4"


@pytest.mark.slow
def test_parts_and_presets_of_a_plugin(tmp_path: Path) -> None:
    """In a process of its own, as it is started: nothing of torch, no colours in a pipe, colours in a terminal."""
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab/__init__.py").write_text(
        "from dataclasses import dataclass\nimport gptlab\nfrom gptlab.optim.schedules import Constant\n"
        '@gptlab.option("schedule", "steep")\n@dataclass\nclass Steep(Constant):\n'
        '    """Falls steeply."""\n    slope: float = 2.0  # how steeply it falls\n'
    )
    for name, text in {
        "debug/mine": "# @package _global_\n# looks into mine\nseed: 7\n",
        "model/dot": "# one dot\ndefaults: [nano]\n",
    }.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / f"{name}.yaml").write_text(text)
    (tmp_path / "gptlab.toml").write_text('plugins = ["my_lab"]\nconf = "conf"\n')
    code = (
        "import sys; from gptlab.commands.main import main\n"
        "codes = [main(['train', '--help', 'schedule=steep']), main(['train', '--help', 'debug']), main(['train', '--help'])]\n"
        "assert not {'torch', 'lightning'} & set(sys.modules), codes\n"
        "from rich.console import Console; from gptlab.commands.usage import usage\n"
        "Console(force_terminal=True, color_system='standard').print(usage('train', ['--help', 'schedule']))"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    plain, coloured = out.partition("\x1b[")[0], out.partition("\x1b[")[2]
    assert re.search(r"^  steep +Falls steeply$", plain, re.MULTILINE)
    assert re.search(r"^  schedule\.slope = 2\.0 +how steeply it falls$", plain, re.MULTILINE)
    assert re.search(r"^  mine +looks into mine$", plain, re.MULTILINE)
    assert {"mine", "dot", "steep"} <= set(plain.split("keys of no group")[0].split())
    assert "\x1b[36m" in coloured
    env |= {"NO_COLOR": "1"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert "\x1b[36m" not in out


def test_the_verb_may_stand_after_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "export"]) == 0
    assert "gptlab export KEY=VALUE" in capfd.readouterr().out


@pytest.mark.slow
def test_cfg_job_is_the_config_that_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It has every value, and can be given as a config itself: what comes of it is the same."""
    assert main(["train", "model=micro", "optimizer=muon", "--cfg", "job"]) == 0
    text = capfd.readouterr().out
    shown = yaml.safe_load(text)
    assert shown["budget"]["steps"] == 900 and shown["name"] == "micro" and shown["parts"]["optimizer"] == "muon"
    assert (
        shown["optimizer"]["lr"] == pytest.approx(6e-4 * (768 / 384) ** 0.5)
        and "${" not in text
        and "/schema" not in text
    )
    (tmp_path / "mine.yaml").write_text(text)
    for more in ([], ["--resolve"], ["-c", "job"]):
        argv = [
            "train",
            "config=mine.yaml",
            *(more or ["--cfg", "job"]),
            *(["--cfg", "job"] if more == ["--resolve"] else []),
        ]
        assert main(argv) == 0
        assert capfd.readouterr().out == text
    assert main(["sample", "decoder=greedy", "--cfg", "job"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["parts"] == {"decoder": "greedy"}
    assert main(["train", "model.n_head=7", "--cfg", "job"]) == 2
    assert capfd.readouterr().err.startswith("error: model.n_head=7: does not divide")


def test_a_budget_that_names_nothing_is_written_down() -> None:
    config = TrainConfig()
    assert record(config)["budget"]["steps"] == 900
    assert TrainConfig(budget=Budget(tokens=1e6)).budget.steps is None
    assert compose("train", ["budget.tokens=1e6"]).budget.fixed() == {"tokens": 1e6}
    old = {**record(config), "budget": dict.fromkeys(record(config)["budget"])}
    assert with_defaults(old)["budget"]["steps"] == 900  # a run of an older gptlab, which did not write it
