"""Parts of other packages: enabled by this environment only, and at work in every command."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from gptlab import plugins
from gptlab.commands.main import main
from gptlab.data.text import bundled
from gptlab.data.tokens.shards import held_out_stream
from gptlab.errors import UserError
from tests.conftest import ROOT, tiny_overrides

PARTS = '''
"""Parts of a lab."""
from dataclasses import dataclass
import gptlab
from gptlab.decoding.decoders import Sample
from gptlab.optim.optimizers import SGD
from gptlab.optim.schedules import Constant
from gptlab.data.text.readers import Chunk
from gptlab.data.text.sources import TextData
from gptlab.tokenizers.byte import Byte

@gptlab.option("decoder", "sharp")
@dataclass
class Sharp(Sample):
    power: float = 2.0
    def __call__(self, logits):
        return super().__call__(logits * self.power)

@gptlab.option("optimizer", "crawl")
@dataclass
class Crawl(SGD):
    lr: float = 1e-3

@gptlab.option("schedule", "half")
@dataclass
class Half(Constant):
    def after(self, step, last):
        return 0.5

@gptlab.option("tokenizer", "bytes_too")
@dataclass
class BytesToo(Byte):
    pass

@gptlab.option("data", "counting")
@dataclass
class Counting(TextData):
    upto: int = 400
    def chunks(self):
        return (Chunk(f"number {i} comes after {i - 1} and before {i + 1}", True) for i in range(self.upto))
    def version(self):
        return self.upto

@gptlab.option("model", "table")
@dataclass
class Table:
    block_size: int = 16
    vocab_size: int = 0
    def build(self):
        from torch import nn
        return nn.Embedding(self.vocab_size, self.vocab_size)

@dataclass
class ShoutConfig:
    word: str = "hi"
    json: bool = False

@gptlab.command
def shout(config: ShoutConfig):
    """Shout a word."""
    return {"word": config.word.upper()}
'''
OWN = ["data=counting", "tokenizer=bytes_too", "optimizer=crawl", "schedule=half", "decoder=sharp", "trainer=cpu"]
TINY = ["model.block_size=16", "budget.steps=4"]
TINY += ["trainer.val_every_n_steps=2", "logger.every_n_steps=1", "sample_prompts=[number]"]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """Return a folder with a package of parts that nothing enables yet."""
    folder = tmp_path / "lab"
    (folder / "my_lab/conf/experiment").mkdir(parents=True)
    (folder / "my_lab/__init__.py").write_text("")
    (folder / "my_lab/parts.py").write_text(PARTS)
    (folder / "my_lab/conf/experiment/lab.yaml").write_text("# @package _global_\nname: from_the_lab\n")
    return folder


def gptlab(folder: Path, *arguments: str, code: int = 0, start: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command by itself, or as `start` starts it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(plugins.INHERITED, raising=False)
        command = [sys.executable, *start, "-m", "gptlab", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.slow
def test_parts_of_a_project_are_at_work_in_every_command(lab: Path) -> None:
    enabled = "plugins=[my_lab]"
    assert "shout a word" in gptlab(lab, enabled, "--help").stdout
    assert json.loads(gptlab(lab, "shout", enabled, "word=ho", "json=true").stdout) == {"word": "HO"}
    ask = ["model=table", *OWN, *TINY]
    gptlab(lab, "train", enabled, *ask, "experiment=lab", "run_dir=run", "trainer.devices=2", "trainer.strategy=fsdp")
    config = yaml.safe_load((lab / "run/config.yaml").read_text())
    assert config["parts"]["optimizer"] == "crawl" and config["name"] == "from_the_lab"
    assert len(config["gptlab"]["plugins"]["my_lab"]["sha256"]) == 64

    # a run enables nothing: it says what would
    for command in (["train", "resume=run", "budget.steps=6"], ["replay", "run=run", "step=1"]):
        refused = gptlab(lab, *command, code=2).stderr
        assert refused.count("\n") == 1 and "it comes from my_lab: install it, or give plugins=[my_lab]" in refused

    (lab / "gptlab.toml").write_text('plugins = ["my_lab"]\n')
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    longer = gptlab(lab, "train", "resume=run", "budget.steps=6", "json=true", start=torchrun)
    resumed = json.loads(longer.stdout)
    assert (resumed["status"], resumed["steps"]) == ("finished", 6)
    gptlab(lab, "replay", "run=run", "step=1")
    gptlab(lab, "sample", "run=run", "decoder=sharp", "prompt=number", "max_new_tokens=4")
    gptlab(lab, "evaluate", "run=run")
    refused = gptlab(lab, "export", "run=run", "out=hf", code=2).stderr
    assert refused.startswith("error: run=run: its model, table, is none of Hugging Face's; ")
    for more in (["hydra/launcher=basic"], []):
        models = "model=table,nano" if not more else "model=table"
        sweep = json.loads(gptlab(lab, "train", "-m", models, *OWN, *TINY, *more, "json=true").stdout)
        assert {job["status"] for job in sweep["runs"]} == {"finished"}
    found = json.loads(gptlab(lab, "report", "pictures=false", "json=true").stdout)["runs"]
    assert len(found) == 3 and {each["status"] for each in found} == {"finished"}
    gptlab(lab, "compare", f"a={sweep['runs'][0]['run_dir']}", f"b={sweep['runs'][1]['run_dir']}")


@pytest.mark.slow
@pytest.mark.new_processes
def test_the_page_says_what_works(texts: str, tmp_path: Path) -> None:
    """Each snippet of docs/extending.md is a module of a package; the loss is that of the table of logits."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    (tmp_path / "my_lab").mkdir()
    for name, text in zip(("__init__", "decoder", "model"), ("", *snippets), strict=True):
        (tmp_path / f"my_lab/{name}.py").write_text(text)
    ask = ["model=bigram", *(each for each in tiny_overrides(texts) if not each.startswith("model."))]
    summary = json.loads(gptlab(tmp_path, "train", "plugins=[my_lab]", *ask, "run_dir=run", "json=true").stdout)
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    tokens = torch.tensor(held_out_stream(tmp_path / "run/held_out")[0][:].astype(int))
    losses = -saved["state_dict"]["gpt.weight"].double().log_softmax(-1)[tokens[:-1], tokens[1:]]
    assert saved["model_option"] == "bigram" and summary["val_loss"] == pytest.approx(float(losses.mean()), abs=1e-6)
    sample = ["run=run", "prompt=the", "decoder=sharper", "decoder.power=3", "max_new_tokens=4", "json=true"]
    drawn = json.loads(gptlab(tmp_path, "sample", "plugins=[my_lab]", *sample).stdout)
    assert drawn["decoder"] == "Sharper(temperature=1.0, power=3.0)" and len(drawn["samples"][0]["ids"]) == 4


@pytest.mark.slow
def test_a_new_project_passes_its_own_tests(tmp_path: Path) -> None:
    gptlab(tmp_path, "new", "my_project")
    env = {key: value for key, value in os.environ.items() if key != plugins.INHERITED}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env["GPTLAB_CACHE"] = str(bundled.cache_dir())  # which has been read already
    # the commands that its tests start are forks too
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.forked", "-n", "0"]
    done = subprocess.run(command, cwd=tmp_path / "my_project", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr
    refused = gptlab(tmp_path, "new", "my_project", code=2).stderr
    assert refused == "error: dir=my_project: exists already; give a new directory\n"
    example = {path.relative_to(ROOT / "examples/own_parts") for path in (ROOT / "examples/own_parts").rglob("*.py")}
    written = {path.relative_to(tmp_path / "my_project") for path in (tmp_path / "my_project").rglob("*.py")}
    assert {str(path).replace("own_parts", "my_project") for path in example} == set(map(str, written))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("plugins=[no_such_lab]", "plugins=no_such_lab: no such module; install it, or start from the folder"),
        ("plugins=[broken]", r"plugins=broken: cannot be imported (RuntimeError: on fire); mend it"),
        ("plugins=[needy]", "plugins=needy: needs no_such_library; "),
        ("plugins=[twice]", "plugins=twice: cannot be imported (ValueError: decoder=top_k is registered by gptlab."),
    ],
)
def test_a_plugin_that_cannot_be_enabled(given: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('on fire')\n")
    (tmp_path / "needy.py").write_text("import no_such_library\n")
    twice = "import gptlab.decoding.decoders\nfrom gptlab import option\n@option('decoder', 'top_k')\nclass Mine: ...\n"
    (tmp_path / "twice.py").write_text(twice)
    refused = gptlab(tmp_path, "train", given, code=2)
    assert refused.stderr.startswith(f"error: {said}") and refused.stderr.count("\n") == 1


CALLBACK = ["+callbacks.others.stop._target_=lightning.pytorch.callbacks.EarlyStopping"]
CALLBACK += ["+callbacks.others.stop.monitor=val/loss", "+callbacks.others.stop.patience=2"]


@pytest.mark.slow
def test_a_callback_by_its_class_ends_a_run_at_the_end_of_a_step(
    texts: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = [*tiny_overrides(texts), "budget.steps=60", *CALLBACK, "+callbacks.others.stop.min_delta=9.0"]
    assert main(["train", *ask, "run_dir=run", "json=true"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["status"], summary["steps"]) == ("finished", 9)  # the third validation without 9 nats less
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 9 and [name for name in saved["callbacks"] if "EarlyStopping" in name]
    # its class is never taken from the run: without it the run goes on to its end
    assert main(["train", "resume=run", "json=true"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["steps"] == 60
    assert "callbacks.others.stop is left out: give its class again, +callbacks.others.stop._target_=" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "+callbacks.others.x._target_=os.system",
            r"callbacks.others.x._target_=os.system: is not allowed; take one of",
        ),
        (
            "+logger.others.x._target_=shutil.rmtree",
            r"logger.others.x._target_=shutil.rmtree: is not allowed; take one",
        ),
        ("+callbacks.others.x._target_=lightning.pytorch.callbacks.Nope", "callbacks.others.x=lightning.pytorch.callb"),
        ("+callbacks.others.x.option=nope", "callbacks.others.x=nope: no such option; enable the plugin that has it"),
        ("+callbacks.others.x.patience=1", "callbacks.others.x=['patience']: names no class and no option; give"),
    ],
)
def test_a_class_that_is_not_allowed(given: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Refused before any data is read."""
    assert main(["train", given]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1
    assert not (tmp_path / "outputs").exists() and not (tmp_path / "cache").exists()


def test_the_project_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.gptlab]\nplugins = ["a"]\nconf = "c"\n')
    assert plugins.read_project(tmp_path) == {"plugins": ["a"], "conf": "c"}
    (tmp_path / "gptlab.toml").write_text('plugins = ["b"]\n')  # goes first
    assert plugins.read_project(tmp_path) == {"plugins": ["b"]}
    (tmp_path / "gptlab.toml").write_text("plugins = [")
    with pytest.raises(UserError, match=r"^project=.+gptlab\.toml: cannot be read"):
        plugins.read_project(tmp_path)
