"""A config.yaml is data: written completely, read back the same, and harmless wherever it comes from."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from gptlab.commands.main import main
from gptlab.config import compose
from gptlab.config.record import read_typed
from gptlab.data.text.sources import Bundled, Files, Mixture
from gptlab.decoding.decoders import TopK, TopP
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.optim.optimizers import AdamW, Muon
from gptlab.optim.schedules import WSD, Cosine
from gptlab.runs.config_file import LAYOUT, read_config, record, write_config
from gptlab.tokenizers.byte import Byte
from gptlab.training.config import Checkpoint, TrainConfig
from gptlab.training.loggers import Loggers
from gptlab.training.trainer import TrainerConfig

OLD = Path(__file__).resolve().parents[1] / "data/old_run"


def written(config: TrainConfig, folder: Path) -> Path:
    path = folder / "config.yaml"
    write_config(path, record(config))
    return path


def test_it_names_every_part_and_who_wrote_it(tmp_path: Path) -> None:
    parts = {"a": Files(files=["x.txt"]), "b": Bundled()}
    path = written(TrainConfig(data=Mixture(parts=parts, weights={"a": 3}), decoder=TopP()), tmp_path)
    saved = yaml.safe_load(path.read_text())
    assert saved["parts"] == {
        **{"model": "gpt", "data": "mixture", "data.parts.a": "text", "data.parts.b": "bundled", "tokenizer": "bpe"},
        **{"optimizer": "adamw", "schedule": "cosine", "decoder": "top_p", "task": "causal_lm"},
        **{"trainer": "default"},
        **{"logger": "tensorboard", "callbacks": "monitor"},
    }
    assert saved["gptlab"]["layout"] == LAYOUT and saved["gptlab"]["plugins"] == {}
    assert not {"defaults", "hydra", "run_dir"} & set(saved) and "schema" not in path.read_text()


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    mixture = Mixture(parts={"a": Files(files=["Größe, [1].txt"]), "b": Bundled()}, weights={"a": 3.0}, batch_size=3)
    optimizer, schedule = Muon(lr=1e-9), WSD(decay_share=0.3)
    config = TrainConfig(data=mixture, optimizer=optimizer, schedule=schedule, sample_prompts=["a: b", "#", "\n"])
    assert read_typed(written(config, tmp_path)) == config
    assert dataclasses.replace(compose("train", run=tmp_path), run_dir=None) == config


def test_options_and_recipes_go_over_a_run(tmp_path: Path) -> None:
    written(TrainConfig(schedule=Cosine(min_ratio=0.5), optimizer=AdamW(lr=0.5), seed=9), tmp_path)
    asked = ["schedule=wsd", "optimizer.lr=1e-4", "budget.steps=2000", "debug=fast", "experiment=verdict", "name=x"]
    config = compose("train", asked, run=tmp_path)
    assert config.schedule == WSD(min_ratio=0.3)  # the recipe's, not the run's
    assert (config.optimizer.lr, config.budget.steps, config.seed) == (1e-4, 2000, 9)
    assert config.trainer.val_every_n_steps == 4 and config.model.n_layer == 2
    assert compose("train", ["tokenizer=char"], run=tmp_path).optimizer.lr == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]  # nothing is written into a run


ALIASES = "a: &a [x, x]\nb: &b [*a, *a]\n"
DEEP = "a: " + "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("hydra: {launcher: {_target_: os.system}}", "has the key hydra"),
        ("model: {_target_: os.system}", "has the key _target_"),
        ("name: ${oc.env:HOME}", r"has \$\{ in the value of name"),
        ("sample_prompts: ['${oc.env:HOME}']", r"has \$\{ in the value of sample_prompts"),
        (ALIASES, r"refers to itself by \*"),
        (DEEP, "nested more than 20 deep"),
        ("name: " + "x" * (1 << 20), "is larger than 1,048,576 bytes"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
        ("a: [", "cannot be read"),
        ("gptlab: {layout: 99}", r"was written by a newer gptlab \(layout 99\)"),
        ("1: 2", "has the key 1"),
        ("parts: [a]", "does not name its parts"),
        ("nonsense: 1", "nonsense.*not in 'TrainConfig'"),
        ("model: {n_layers: 1}", r"^model\.n_layers=.*not in 'GPTConfig'"),
        ("seed: many", "^seed=.*could not be converted to Integer"),
        ("parts: {decoder: eta}", "^decoder=eta: .*is not an option here; enable the plugin"),
        ("parts: {thing: eta}", "^thing=eta: .*no such part"),
    ],
)
def test_a_file_from_outside_is_refused_in_one_line(more: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(more if "gptlab" in more else f"{more}\ngptlab: {{layout: 2}}\n")
    for read in (read_typed, lambda path: compose("train", run=path)):
        with pytest.raises(UserError, match=why) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["resume=evil", "config=evil", "--config-dir=evil --config-name=config"])
def test_no_command_runs_what_a_run_directory_says(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A regression test: a launcher and an interpolation of a stranger's config.yaml took effect."""
    written(TrainConfig(), Path("evil"))
    evil = "hydra: {job: {chdir: true}, run: {dir: pwned}, launcher: {_target_: os.mkdir, path: pwned}}\n"
    Path("evil/config.yaml").write_text(Path("evil/config.yaml").read_text() + evil)
    assert main(["train", *how.split(" ")]) == 2
    assert "has the key hydra" in capfd.readouterr().err
    assert not Path("pwned").exists() and [path.name for path in Path("evil").iterdir()] == ["config.yaml"]


def test_a_run_of_layout_1_is_read(tmp_path: Path) -> None:
    """It was written before the redesign, with classes in a defaults list."""
    config = read_typed(OLD / "config.yaml")
    assert config == TrainConfig(
        model=GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=32, vocab_size=257),
        data=Files(files=["texts/*.txt"], batch_size=4),
        tokenizer=Byte(),
        optimizer=AdamW(lr=0.004156921938165305),
        schedule=Cosine(warmup_steps=1),
        decoder=TopK(),
        trainer=TrainerConfig(accelerator="cpu", devices=1, val_every_n_steps=3),
        logger=Loggers(every_n_steps=2),
        budget=dataclasses.replace(config.budget, steps=6),
        checkpoint=Checkpoint(every_n_steps=3),
        sample_prompts=["the cat"],
        name="nano",
    )
    assert config.search_metric == "val/loss"  # `objective` then
    composed = compose("train", ["budget.steps=12", "schedule=constant"], run=OLD)
    assert (composed.budget.steps, composed.model, composed.seed) == (12, config.model, 1337)
    assert read_config(OLD / "config.yaml")["parts"]["decoder"] == "top_k"


def test_a_value_that_does_not_fit_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {n_head: 7}\ngptlab: {layout: 2}\n")
    with pytest.raises(UserError, match=rf"^model\.n_head=7: {tmp_path}/config\.yaml: does not divide n_embd"):
        read_typed(tmp_path / "config.yaml")


def test_a_later_default_changes_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(TrainConfig(), tmp_path)
    monkeypatch.setattr(GPTConfig, "dropout", 0.7)
    assert read_typed(path).model.dropout == 0.0
