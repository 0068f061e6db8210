"""Run directories that are damaged, half written or made by a stranger: listed, never an error, never waited for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gptlab.commands.report import ReportConfig, report
from gptlab.errors import UserError, printable
from gptlab.files import read_bounded, read_json
from gptlab.runs.differences import differences, same_but_seed
from gptlab.runs.reader import find_runs, natural, read_run
from gptlab.runs.run_dir import RunDir
from tests.alarms import ended_after
from tests.written_runs import MakeRun

FILES = [
    *("config.yaml", "summary.json", "metrics.csv", "samples.md"),
    *("tokenizer/tokenizer.json", "held_out/manifest.json", "checkpoints/last.ckpt"),
]


@pytest.fixture(autouse=True)
def _nothing_waits() -> Iterator[None]:
    """A test that waits for a pipe ends after a while."""
    with ended_after(60, TimeoutError("it hangs")):
        yield


def fifo(path: Path) -> None:
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 30)  # sparse


DAMAGES = {
    "pipe": fifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "huge": huge,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "empty": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[1, 2]"),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_no_error(make_run: MakeRun, file: str, damage: str) -> None:
    make_run("whole", seed=1)
    path = make_run("hurt", seed=2, samples="## step 3\n\n    the cat\n") / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    DAMAGES[damage](path)
    result = report(ReportConfig(runs=["runs"], pictures=False))
    status = {row["run"]: row["status"] for row in result["runs"]}
    listed = {"whole"} if (file, damage) == ("config.yaml", "folder") else {"whole", "hurt"}
    assert set(status) == listed and status["whole"] == "finished"
    if file == "summary.json" or (file == "config.yaml" and damage not in ("folder", "dangling link")):
        expected = {"summary.json": "unreadable", "config.yaml": "finished"}  # a summary says more than unreadable
        assert status["hurt"] == expected[file]


@pytest.mark.parametrize(
    "config",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "a: &a\n  b: *a\n",
        "a: " + "{b: " * 500 + "1" + "}" * 500,
        "a: 2024-99-99",
        "a: !!bool perhaps",
        "a: !!timestamp never",
        "a: !!python/object/apply:os.system [echo]",
        "? [1, 2]\n: 3",
        "a: " + "1" * 10_000,
        "\x00",
    ],
    ids=["bomb", "circle", "deep", "date", "bool", "timestamp", "code", "key", "digits", "zero"],
)  # fmt: skip
def test_a_config_that_is_none_is_unreadable(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    run = read_run(tmp_path, "r")
    assert run.status == "unreadable" and run.settings == {}
    with pytest.raises(UserError, match=r"^config=.+config\.yaml: .+; take the config\.yaml of a run"):
        RunDir(tmp_path).config()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "summary"),
    [
        ("defaults: 3\nmodel: [1]\ndata: x\nsample_prompts: 9\nbudget: 7", "{}"),
        ("model: {n_head: 1000000000000, n_embd: 1000000000000}\ndata: {batch_size: x}", '{"steps": NaN, "tokens": 1e999}'),
        ("model: {n_layer: x}\nseed: 1", '{"status": ["x"], "val_loss": true, "data_hash": [1]}'),
        ("1: 2\nnull: 3\nbudget: {}", '{"status": "fin\\u001b[31mished", "steps": 1' + "0" * 400 + "}"),
        ("name: '[/b]'\ndata: {batch_size: 99999999999999999999}\nmodel: {block_size: 9}", '{"steps": -3, "seconds": "x"}'),
        ("data:\n" + "".join(f"  k{i}: {i}\n" for i in range(3000)), '{"status": "finished"}'),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind(
    config: str, summary: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("whole")
    path = make_run("od[/d] \udcff ²", rows=["1" + "0" * 400 + ",1,2,3,4", "-5,3,,,", "x,1,,,", "5,1e999,nan,,"])
    (path / "config.yaml").write_text(config)
    (path / "summary.json").write_text(summary)
    runs = find_runs(["runs"])
    assert len(runs) == 2 and len(same_but_seed(runs)) == 2 and isinstance(differences(runs), dict)
    report(ReportConfig(runs=["runs"], pictures=True))
    said = capsys.readouterr().out
    assert "\x1b" not in said and ("od[/d]" in said or "[/b]" in said)


def test_listing_passes_by_what_other_programs_leave(make_run: MakeRun) -> None:
    path = make_run("a")
    for folder in (path.parent, path, path / "tokenizer", path / "checkpoints"):
        (folder / ".ipynb_checkpoints").mkdir(parents=True)
        (folder / ".ipynb_checkpoints/config.yaml").write_text("seed: 1")
        (folder / ".DS_Store").write_bytes(b"\0")
    clean = make_run("b", seed=2)
    runs = find_runs(["runs"])
    assert [run.name for run in runs] == ["a", "b"] and runs[0].tokenizer == read_run(clean, "b").tokenizer


@pytest.mark.parametrize(
    ("summary", "why"),
    [
        ('{"layout": 99}', "was made by a newer gptlab"),
        ('{"layout": "x"}', "was made by a newer gptlab"),
        ("[1]", "does not hold keys with values"),
        ("{", "cannot be read"),
    ],
)
def test_a_run_that_a_command_asks_for_says_what_is_wrong(summary: str, why: str, make_run: MakeRun) -> None:
    path = make_run("r")
    (path / "summary.json").write_text(summary)
    with pytest.raises(UserError) as error:
        RunDir.find(str(path), without_checkpoint=True)
    assert why in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "saved",
    [
        {"model": {"n_layer": 10**9}, "state_dict": {}},
        {"model": {}, "state_dict": torch.zeros(1)},
        {"model": 3, "state_dict": {}},
        [1, 2],
    ],
)
def test_a_checkpoint_of_something_else(saved: object, make_run: MakeRun) -> None:
    path = make_run("r")
    (path / "checkpoints").mkdir()
    torch.save(saved, path / "checkpoints/last.ckpt")
    with pytest.raises(UserError, match=r"^run=.+last\.ckpt: is not a whole gptlab checkpoint"):
        RunDir.find(str(path)).load()


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        read_bounded(tmp_path / "a", 4)
    fifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="is not a regular file"):
            read_bounded(tmp_path / name, 5)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 5)
    (tmp_path / "b").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "b", 99) == {"a": 1}


def test_names_that_are_hard_to_show_and_sort() -> None:
    assert printable("a\x1b[31m\n\udcff é") == "a\\x1b[31m\\n\\udcff é"
    assert sorted(["x²", "x10", "x9", "²"], key=natural) == ["x9", "x10", "x²", "²"]
