"""Every verb that reads a run says in one line which of its files is damaged, and in which way, and waits for nothing."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.commands.report import ReportConfig, report
from tests.faults.conftest import Ask

VERBS = {
    "resume": ["train", "resume=run", "budget.steps=3"],
    "init_from": ["train", "init_from=run", "run_dir=new", "data=text", "data.files=[texts/*.txt]", "budget.steps=1"]
    + ["model.block_size=32", "trainer=cpu", "logger=none", "sample_prompts=[]"],
    "config": ["train", "--config-dir", "run", "--config-name", "config", "run_dir=new", "budget.steps=1"],
    "sample": ["sample", "run=run", "max_new_tokens=2", "prompt=the cat"],
    "evaluate": ["evaluate", "run=run"],
    "compare": ["compare", "a=run", "b=other", "resamples=100"],
    "replay": ["replay", "run=run", "step=1"],
    "export": ["export", "run=run", "out=out"],
}
# a file of a run -> the verbs that read it, and how it is read
READ_BY = {
    "config.yaml": ["resume", "config", "sample", "evaluate", "compare", "replay"],
    "summary.json": [verb for verb in VERBS if verb != "config"],
    "metrics.csv": ["resume"],
    "samples.jsonl": ["resume"],
    "tokenizer/tokenizer.json": ["sample", "evaluate", "compare", "export", "init_from"],
    "tokenizer/ranks.tiktoken": ["sample", "evaluate", "compare", "export", "init_from"],
    "held_out/manifest.json": ["evaluate", "compare", "replay"],
    "held_out/val.bin": ["evaluate", "compare"],
    "checkpoints/last.ckpt": [verb for verb in VERBS if verb != "config"],
    "checkpoints/SHA256SUMS": [verb for verb in VERBS if verb != "config"],
    "checkpoints/.lock": ["resume"],
}
TELLS_LITTLE = {"metrics.csv", "samples.jsonl", "checkpoints/SHA256SUMS", "checkpoints/.lock"}  # a run goes on without


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # its path must be short


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: path.write_bytes(b"") and None,
    "brace": lambda path: path.write_text("{") and None,
    "NULs": lambda path: path.write_bytes(bytes(5000)) and None,
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 40) and None,
    "not UTF-8": lambda path: path.write_bytes("größe: {ä: 1}\n".encode("latin-1")) and None,
    "too deep": lambda path: path.write_text("[" * 100_000) and None,
    "a list": lambda path: path.write_text("[1, 2]\n") and None,
    "a number": lambda path: path.write_text("7\n") and None,
    "cut": lambda path: None,
    "FIFO": lambda path: os.mkfifo(path),
    "folder": lambda path: path.mkdir(),
    "socket": unix_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "huge": huge,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "gone": lambda path: None,
}
LEFT_BY_OTHERS = (".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "._config.yaml")
CASES = [(file, damage) for file in READ_BY for damage in DAMAGES]


def damaged(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) * 2 // 3])
    DAMAGES[damage](path)


@pytest.mark.parametrize("file", READ_BY)
def test_a_damaged_file_is_named_in_one_line(
    file: str, run: Path, ask: Ask, some: Callable[..., list[str]], pytestconfig: pytest.Config
) -> None:
    """Half of the damages, and the verbs take turns; with --faults=200 each verb reads each damaged file."""
    every = pytestconfig.getoption("faults") >= 200
    shutil.copytree(run, "whole")
    accepted = []
    for number, damage in enumerate(some(list(DAMAGES), 2)):
        verbs = READ_BY[file] if every else READ_BY[file][number % len(READ_BY[file]) :][:1]
        for verb in verbs:
            for name in ("run", "new", "out"):
                shutil.rmtree(name, ignore_errors=True)
            shutil.copytree("whole", "run")
            damaged(run / file, damage)
            if ask(*VERBS[verb]) == 0:
                accepted.append((verb, damage))
    if file not in TELLS_LITTLE:
        # what is gone may be something that a run need not have, and half a config.yaml may be one of a few keys
        harmless = {"gone", "cut"} if file == "config.yaml" else {"gone"}
        if file == "checkpoints/last.ckpt":  # a run goes on from the checkpoint before, and says so
            accepted = [each for each in accepted if each[0] != "resume"]
        assert [each for each in accepted if each[1] not in harmless] == []


def test_report_lists_every_damaged_run_and_the_others(run: Path, tmp_path: Path) -> None:
    """One folder with a run for each file and damage; both tables name the whole one with its scores."""
    (tmp_path / "runs").mkdir()
    shutil.copytree(run, "runs/whole")
    for file in ("config.yaml", "summary.json"):
        for damage in DAMAGES:
            name = f"runs/{file} {damage}"
            shutil.copytree(run, name)
            damaged(Path(name) / file, damage)
    rows = {row["run"]: row for row in report(ReportConfig(runs=["runs"], pictures=False))["runs"]}
    assert rows["whole"]["status"] == "finished" and rows["whole"]["val_loss"] > 0
    gone = {"gone", "folder"}  # a folder without a file config.yaml is no run
    assert set(rows) == {"whole"} | {
        f"{file} {damage}" for file in ("config.yaml", "summary.json") for damage in DAMAGES
        if file == "summary.json" or damage not in gone
    }  # fmt: skip
    unreadable = {damage for damage in DAMAGES if rows[f"summary.json {damage}"]["status"] == "unreadable"}
    assert unreadable == set(DAMAGES) - {"gone"}


def test_what_other_programs_leave_is_passed_by(run: Path, ask: Ask) -> None:
    for folder in (run, run / "checkpoints", run / "tokenizer", run / "held_out"):
        for name in LEFT_BY_OTHERS:
            if name == ".ipynb_checkpoints":
                (folder / name).mkdir()
                (folder / name / "config-checkpoint.yaml").write_text("seed: 1")
                (folder / name / "last-checkpoint.ckpt").write_text("")
            else:
                (folder / name).write_bytes(b"\0\1")
    for verb, argv in VERBS.items():
        assert ask(*argv, *(["run_dir=newer"] if verb == "config" else [])) == 0


def test_folders_that_are_links_are_not_written_through(run: Path, ask: Ask, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (run / "checkpoints").rename(elsewhere)
    (run / "checkpoints").symlink_to(elsewhere)
    before = {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()}
    assert ask(*VERBS["resume"]) == 2
    assert {path.name: path.stat().st_mtime_ns for path in elsewhere.iterdir()} == before
