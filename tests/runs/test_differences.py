from pathlib import Path

from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.reader import find_runs
from tests.written_runs import MODEL, MakeRun


def test_what_was_asked_differently(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("0", optimizer__lr=0.1, json=True, model__vocab_size=9, tokenizer="another")
    make_run("1", optimizer__lr=0.2, seed=2, logger={"every_n_steps": 3})
    (tmp_path / "runs/2").mkdir()
    (tmp_path / "runs/2/config.yaml").write_text("model: {n_layer: 2, n_head: 2, n_embd: 16, block_size: 32}")
    found = differences(find_runs(["runs"]))
    assert found == {"optimizer.lr": [0.1, 0.2, None], "seed": [1, 2, None]}


def test_a_class_stands_for_its_fields_and_a_preset_for_the_model(make_run: MakeRun) -> None:
    sgd = ["/schema/SGD@optimizer"]
    make_run("0", name="micro", model={**MODEL, "n_layer": 4, "n_embd": 32})
    make_run("1", defaults=sgd, optimizer={"lr": 0.1, "momentum": 0.9})
    make_run("2", defaults=sgd, optimizer={"lr": 0.2, "momentum": 0.9})
    found = differences(find_runs(["runs"]))
    assert found == {
        "optimizer": ["adamw", "sgd", "sgd"],
        "optimizer.lr": [0.001, 0.1, 0.2],  # says more than the class
        "model": ["micro", "nano", "nano"],
    }


def test_groups_differ_in_the_seed_alone(make_run: MakeRun) -> None:
    make_run("0")
    make_run("1", seed=2, name="other", logger={"csv": True}, sample_prompts=[])
    make_run("2", optimizer__lr=0.5)
    make_run("3", summary={"data_hash": "another text"})
    make_run("4", model__vocab_size=320)
    runs = find_runs(["runs"])
    assert [[run.name for run in group] for group in same_but_seed(runs)] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert differences([runs[0], runs[4]]) == {"model.vocab_size": [257, 320]}  # padded
    for run in runs[:2]:
        (run.path / "tokenizer/tokenizer.json").unlink()
        (run.path / "summary.json").unlink()
    assert [[run.name for run in group] for group in same_but_seed(find_runs(["runs"]))][-1] == ["4"]


def test_what_changes_no_number_is_no_difference(make_run: MakeRun) -> None:
    watching = {"class": "lightning.pytorch.callbacks.LearningRateMonitor", "logging_interval": "step"}
    make_run("0", name="a", data={"files": ["here.txt"]}, trainer={"val_every_n_steps": 5}, preset="nano")
    make_run(
        "1",
        name="b",
        data={"files": ["/there/here.txt"]},
        callbacks={"norms": True, "others": {"rate": watching}},
        trainer={"val_every_n_steps": 9},
        logger={"wandb": True},
        preset="micro",
        model=dict(MODEL),
        seed=2,
    )
    ends = {"class": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}
    make_run("2", data={"files": ["here.txt"]}, callbacks={"others": {"end": ends}}, preset="nano")
    make_run("3", data={"files": ["here.txt"]}, preset="nano", summary={"data_hash": "another"})
    runs = find_runs(["runs"])
    assert differences(runs[:2]) == {"model": ["nano", "micro"], "seed": [1, 2]}
    assert [[run.name for run in group] for group in same_but_seed(runs)] == [["0", "1"], ["2"], ["3"]]
    assert "callbacks.others.end.class" in differences(runs)


def test_a_run_that_has_not_begun_belongs_to_its_config(make_run: MakeRun) -> None:
    make_run("0")
    path = make_run("1", seed=2, model__vocab_size=0)
    for file in ("summary.json", "tokenizer/tokenizer.json"):
        (path / file).unlink()
    assert [len(group) for group in same_but_seed(find_runs(["runs"]))] == [2]
    make_run("2", summary={"data_hash": "another text"})  # there are two that it may belong to
    assert [len(group) for group in same_but_seed(find_runs(["runs"]))] == [1, 1, 1]
