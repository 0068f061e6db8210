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


def test_a_class_stands_for_its_fields_and_a_name_for_the_model(make_run: MakeRun) -> None:
    sgd = ["/schema/SGD@optimizer"]
    make_run("0", name="micro", model={**MODEL, "n_layer": 4, "n_embd": 32})
    make_run("1", defaults=sgd, optimizer={"lr": 0.1, "momentum": 0.9})
    make_run("2", defaults=sgd, optimizer={"lr": 0.2, "momentum": 0.9})
    found = differences(find_runs(["runs"]))
    assert found == {
        "optimizer": ["adamw", "sgd", "sgd"],
        "optimizer.lr": [0.001, 0.1, 0.2],  # says more than the class
        "name": ["micro", "nano", "nano"],
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
