"""The Python API does what the commands do, without Hydra."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab.data.text.sources import Files
from gptlab.decoding.decoders import Beam, Greedy, TopK
from gptlab.errors import UserError
from gptlab.files import followed
from gptlab.model.config import GPTConfig
from gptlab.optim.schedules import Constant
from gptlab.runs.config_file import read_config
from gptlab.tokenizers.byte import Byte
from gptlab.training.budget import Budget
from gptlab.training.config import TrainConfig
from gptlab.training.trainer import TrainerConfig
from tests.conftest import ROOT, write_texts
from tests.forked import script

PARTS = {
    "model": GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=0),
    "tokenizer": Byte(),
    "schedule": Constant(),
    "trainer": TrainerConfig(accelerator="cpu", devices=1, enable_progress_bar=False),
    "budget": Budget(steps=3),
    "sample_prompts": ["the"],
}


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    write_texts(tmp_path / "texts")
    return TrainConfig(data=Files(files=["texts/*.txt"], batch_size=4), **PARTS)  # type: ignore[arg-type]


def test_train_load_generate_evaluate(config: TrainConfig, tmp_path: Path) -> None:
    summary = gptlab.train(config)
    assert summary is not None and summary["status"] == "finished" and summary["steps"] == 3
    run = Path(summary["run_dir"])
    assert run.parent.parent == tmp_path / "outputs" and run.name.endswith("-run")
    gpt, tokenizer = gptlab.load(run)
    assert gpt.config.vocab_size == tokenizer.n_vocab == 257
    assert gptlab.evaluate(run)["loss"] == pytest.approx(summary["val_loss"], abs=1e-5)
    assert gptlab.evaluate(run, Files(files=["texts/0*.txt"]))["tokens"] > 0
    texts = gptlab.generate(run, "the cat", TopK(k=9), max_new_tokens=8, num_samples=3, seed=2)
    assert len(set(texts)) == 3
    assert texts == gptlab.generate((gpt, tokenizer), "the cat", TopK(k=9), max_new_tokens=8, num_samples=3, seed=2)
    greedy = gptlab.generate("latest", "the cat", Greedy(), max_new_tokens=8)
    assert greedy == gptlab.generate("latest", "the cat", Beam(beams=1), max_new_tokens=8)
    assert gptlab.generate(run, "the cat", Greedy(), max_new_tokens=8, stop=[greedy[0][:1]]) == [""]


@pytest.mark.slow
def test_a_run_of_the_api_is_a_run_of_the_commands(config: TrainConfig, capfd: pytest.CaptureFixture[str]) -> None:
    from gptlab.commands.main import main

    summary = gptlab.train(config)
    assert summary is not None
    again = gptlab.compose("train", ["seed=5"], run=summary["run_dir"])
    assert (again.data, again.model.n_embd, again.seed) == (config.data, 16, 5)
    capfd.readouterr()
    assert main(["sample", "prompt=the cat", "max_new_tokens=4", "seed=3", "json=true"]) == 0
    sampled = json.loads(capfd.readouterr().out)["samples"][0]["text"]
    assert gptlab.generate("latest", "the cat", max_new_tokens=4, seed=3) == [sampled]
    assert main(["train", f"resume={summary['run_dir']}", "budget.steps=5", "json=true"]) == 0
    assert json.loads(capfd.readouterr().out)["steps"] == 5


@pytest.mark.slow
def test_hydra_is_not_needed(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    code = """
import sys
import gptlab
assert not {"torch", "lightning", "numpy"} & set(sys.modules)
from gptlab.data.text.sources import Files
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.training.budget import Budget
from gptlab.training.config import TrainConfig
from gptlab.training.trainer import TrainerConfig
model = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=0)
trainer = TrainerConfig(accelerator="cpu", devices=1, enable_progress_bar=False)
data = Files(files=["texts/*.txt"], batch_size=4)
summary = gptlab.train(TrainConfig(model=model, data=data, trainer=trainer, budget=Budget(steps=2)))
gptlab.evaluate(summary["run_dir"])
gptlab.generate(summary["run_dir"], "the", max_new_tokens=3)
assert "hydra" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_written_down_is_refused(config: TrainConfig) -> None:
    class Mine(Constant):
        pass

    config.schedule = Mine()
    with pytest.raises(UserError, match=r"^schedule=Mine: is not registered; put @gptlab\.option"):
        gptlab.train(config)
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_the_page_says_what_works(tmp_path: Path) -> None:
    """Every snippet of docs/python.md, in one process, in their order."""
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    assert len(snippets) >= 4
    (tmp_path / "book.txt").write_text("".join(path.read_text() for path in _texts(tmp_path)))
    (tmp_path / "page.py").write_text("\n".join(snippets))
    script(tmp_path / "page.py")
    assert read_config(followed(Path("outputs/latest/config.yaml")))["parts"]["optimizer"]


def _texts(folder: Path) -> list[Path]:
    write_texts(folder / "texts")
    return sorted((folder / "texts").glob("*.txt"))
