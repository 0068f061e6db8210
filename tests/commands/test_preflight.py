"""Mistakes that need no torch are answered without it, and before anything is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.errors import UserError
from gptlab.training.preflight import require_devices
from gptlab.training.trainer import TrainerConfig

MISTAKES = [
    "train data=text data.files=[none.txt]",
    "train data=text data.files=[file] data.val_files=[none.txt]",
    "train data=tokens data.folder=none",
    "train tokenizer=json tokenizer.file=none",
    "train tokenizer=saved tokenizer.folder=none",
    "train trainer.accelerator=abacus",
    "train trainer.precision=9",
    "train trainer=cpu trainer.precision=16-mixed",
    "train init_from=none",
    "train task=sft data=instructions data.files=[none.jsonl]",
    "train task=classification data=labelled data.val_files=[none.csv]",
    "train task=preference data=preferences data.files=none.jsonl",
    "train task=distill task.teacher=[none]",
    "train resume=none",
    "train resume=file",
    "train config=none",
    "train model.n_head=7",
    "train batch_size=4",
    "check data=text data.files=[none.txt]",
    "sample run=none",
    "sample",
    "evaluate run=none",
    "compare a=none b=none",
    "replay run=none step=1",
    "export run=none out=new",
    "chat run=none",
    "app run=none",
    "app port=70000",
    "import hf=none out=new",
    "import checkpoint=none out=new",
    "audit data=text data.files=[none.txt]",
    "tokenize data=text data.files=[none.txt] out=new",
    "plan hardware=none",
    "bench run=none",
    "average runs=[none] out=new",
    "band text=words out=a.band.json runs=[none,none]",
    "rate runs=[none,none]",
    "report runs=none",
    "new file",
]

# each in a process that is forked from one that has imported all verbs
CODE = """
import contextlib, io, json, os, sys
from gptlab import registry
from gptlab.commands.main import main
import gptlab.commands.command
for verb in registry.verbs():
    registry.find_command(verb)
registry.import_own_parts()
for line in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if os.fork() == 0:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            code = main(line.split(" "))
        known = [name for name in ("torch", "lightning") if name in sys.modules]
        print(json.dumps([line, code, said.getvalue().count("error: "), known]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_a_mistake_does_not_wait_for_torch(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a text\n")
    command = [sys.executable, "-c", CODE, json.dumps(MISTAKES)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert [json.loads(line) for line in out.splitlines()] == [[line, 2, 1, []] for line in MISTAKES]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_gpu_is_told_by_the_files_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    found: list[str] = []
    monkeypatch.setattr("glob.glob", lambda pattern: [path for path in found if path.startswith(pattern.rstrip("*"))])
    trainer = TrainerConfig(accelerator="gpu")
    with pytest.raises(UserError, match="accelerator=gpu: this machine has no GPU; try trainer=cpu"):
        require_devices(trainer)
    found.append("/dev/nvidia0")
    require_devices(trainer)
    found[:] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    require_devices(trainer)
