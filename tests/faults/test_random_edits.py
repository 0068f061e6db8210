"""Random edits of what is right: a command line, config.yaml, summary.json, tokenizer.json and a checkpoint.

Whatever they come to, the answer is the command's own: it does what it can, or says in one line why not. Each kind of
file has 20 edits, the same each time; GPTLAB_FAULT_EXAMPLES=10000 makes that many, and finds what 20 do not.
"""

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptlab.errors import RunFailed
from tests.faults.scratch import Answer, Scratch, asked, tiny

EXAMPLES = int(os.environ.get("GPTLAB_FAULT_EXAMPLES", "20"))
edits = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LINES = [
    ["train", *tiny(), "optimizer.lr=1e-3", "schedule=wsd", "decoder=top_p"],
    ["sample", "run=run", "prompt=the cat", "decoder=top_k", "decoder.k=5", "max_new_tokens=2", "stop=[.]"],
    ["evaluate", "run=run", "batch_size=2", "block_size=8"],
    ["compare", "a=run", "b=[run,run]", "resamples=100", "out=never/there"],
    ["replay", "run=run", "step=2"],
    ["audit", "data=text", "data.files=[texts/00.txt]", "tokenizer=byte", "ngram=3"],
    ["export", "run=run", "out=file/new"],
    ["import", "hf=exported", "out=file/new"],
]
PIECES = [*"=,.[]{}()'\"\\$@/~+-:*#%& \t\n0e", "${", "null", "nan", "inf", "1e400", "???", "é", "项", "\udcff", "\x1b"]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def own(scratch: Scratch, tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """A copy of the working directory: an edited line may well be right, and write something."""
    path = tmp_path_factory.mktemp("edits") / "work"
    shutil.copytree(scratch.path, path, symlinks=True)
    return Scratch(path, scratch.cache)


@pytest.fixture(autouse=True)
def _nothing_begins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training that could begin ends where it would write."""

    def begin(*_: object) -> None:
        raise RunFailed("the run begins")

    monkeypatch.setattr("gptlab.training.run.open_run", begin)
    yield


def check(answer: Answer) -> None:
    assert answer.is_clean, answer.err
    assert answer.code in (0, 1, 2), answer
    if answer.code:
        assert len(answer.errors) == 1 and answer.err.splitlines()[-1] == answer.errors[0], answer.err


@st.composite
def edited(draw: st.DrawFn, text: str) -> str:
    """Return a text with one to three pieces put in, taken out or changed."""
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(text))), draw(st.integers(0, 3))
        text = text[:at] + draw(st.sampled_from(["", *PIECES])) + text[at + length :]
    return text


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Return a command line with an argument edited, left out or given twice."""
    verb, *argv = draw(st.sampled_from(LINES))
    at = draw(st.integers(0, len(argv) - 1))
    how = draw(st.sampled_from(["edit", "edit", "edit", "drop", "twice"]))
    if how == "edit":
        argv[at] = draw(edited(argv[at]))
    elif how == "drop":
        del argv[at]
    else:
        argv.insert(draw(st.integers(0, len(argv))), argv[at])
    return [verb, *argv]


@edits
@given(argv=lines())
def test_command_lines(argv: list[str], own: Scratch, capfd: pytest.CaptureFixture[str]) -> None:
    with own.entered():
        check(asked(argv, capfd))


# what reads each file
READERS: dict[str, list[list[str]]] = {
    "config.yaml": [["train", "config=hurt/config.yaml", "run_dir=new"], ["evaluate", "run=hurt"]],
    "summary.json": [["train", "resume=hurt", "budget.steps=9"], ["sample", "run=hurt", "max_new_tokens=1"]],
    "tokenizer/tokenizer.json": [["sample", "run=hurt", "prompt=the cat", "max_new_tokens=1"]],
    "held_out/manifest.json": [["evaluate", "run=hurt"]],
}
REPORT = ["report", "runs=hurt", "out=hurt/report", "pictures=false"]


@pytest.mark.parametrize("file", READERS)
@edits
@given(data=st.data())
def test_small_files(file: str, data: st.DataObject, own: Scratch, capfd: pytest.CaptureFixture[str]) -> None:
    with own.entered():
        path = copied(file)
        path.write_text(data.draw(edited(path.read_text(encoding="utf-8"))), encoding="utf-8", errors="surrogateescape")
        for argv in data.draw(st.sampled_from([[each] for each in (*READERS[file], REPORT)])):
            check(asked(argv, capfd))


@st.composite
def edited_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a file with bits flipped, its end cut off, a piece of it elsewhere, or a member of its archive changed."""
    how = draw(st.sampled_from(["flip", "cut", "insert", "member", "name", "drop"]))
    at = draw(st.integers(0, len(content) - 1))
    if how == "flip":
        changed = bytearray(content)
        changed[at] ^= 1 << draw(st.integers(0, 7))
        return bytes(changed)
    if how == "cut":
        return content[:at]
    if how == "insert":
        return content[:at] + draw(st.binary(min_size=1, max_size=9)) + content[at:]
    return _repacked(draw, content, how)


def _repacked(draw: Any, content: bytes, how: str) -> bytes:
    """Return the archive with one of its members edited, renamed or left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        pickled = next(name for name in names if name.endswith("data.pkl"))
        chosen = draw(st.sampled_from([pickled, pickled, *names]))
        for name in names:
            member = old.read(name)
            if name == chosen and how == "drop":
                continue
            if name == chosen and how == "member" and member:
                at = draw(st.integers(0, len(member) - 1))
                member = member[:at] + draw(st.binary(max_size=4)) + member[at + draw(st.integers(0, 4)) :]
            new.writestr(name + "x" if name == chosen and how == "name" else name, member)
    return out.getvalue()


@edits
@given(data=st.data())
def test_checkpoints(data: st.DataObject, own: Scratch, capfd: pytest.CaptureFixture[str]) -> None:
    with own.entered():
        path = copied("checkpoints/last.ckpt")
        content = data.draw(edited_bytes(path.read_bytes()))
        path.unlink()  # other names of the file keep it as it was
        path.write_bytes(content)
        sums = path.with_name("SHA256SUMS")
        if data.draw(st.booleans()):
            sums.unlink()
        argv = data.draw(
            st.sampled_from(
                [
                    ["sample", "run=hurt", "max_new_tokens=1"],
                    ["train", "resume=hurt/checkpoints/last.ckpt", "budget.steps=9", "run_dir=new"],
                    ["train", *tiny(), "init_from=hurt", "run_dir=new"],
                ]
            )
        )
        answer = asked(argv, capfd)
        check(answer)
        assert answer.code in (0, 2) or answer.err.endswith("the run begins\n"), answer.err


def copied(file: str) -> Path:
    """Copy the run to `hurt`, and return one of its files."""
    shutil.rmtree("hurt", ignore_errors=True)
    shutil.copytree("run", "hurt", symlinks=True)
    return Path("hurt", file)
