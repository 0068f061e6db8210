"""Payloads in every file that a verb reads: none runs, each is refused in one line, or passed by where nobody asks it."""

import builtins
import functools
import importlib
import os
import pickle
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.training.resume import checkpoint_of
from tests.conftest import save_by_hand
from tests.faults.conftest import Ask
from tests.faults.test_damaged_runs import VERBS

OWNED = "owned"  # what a payload leaves in the working directory


class Call:
    """Be a call of a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Build:
    """Be a call of __setstate__ when it is unpickled."""

    def __reduce__(self) -> Any:
        return functools.partial, (Path.touch,), (Path.touch, (Path(OWNED),), {}, None)


TOUCH = f"open({OWNED!r}, 'w')"
PICKLES: dict[str, Callable[[], Any]] = {
    "os.system": lambda: Call(os.system, f"touch {OWNED}"),
    "subprocess.call": lambda: Call(subprocess.call, ["touch", OWNED]),
    "subprocess.Popen": lambda: Call(subprocess.Popen, ["touch", OWNED]),
    "eval": lambda: Call(builtins.eval, TOUCH),
    "exec": lambda: Call(builtins.exec, TOUCH),
    "open": lambda: Call(builtins.open, OWNED, "w"),
    "Path.touch": lambda: Call(Path.touch, Path(OWNED)),
    "Path.write_text": lambda: Call(Path.write_text, Path(OWNED), "x"),
    "runpy": lambda: Call(runpy.run_path, "evil.py"),
    "import": lambda: Call(importlib.import_module, "evil"),
    "getattr": lambda: Call(getattr, Path, "touch"),
    "pickle.loads": lambda: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {OWNED}"))),
    "torch.load": lambda: Call(torch.load, "evil.pkl", "cpu", None),
    "torch.hub.load": lambda: Call(torch.hub.load, "evil", "evil"),
    "functools.partial": lambda: Call(functools.partial(os.system, f"touch {OWNED}")),
    "setstate": Build,
    "bytearray of 64 GiB": lambda: Call(bytearray, 1 << 36),
    "tensor of 4 TiB": lambda: Call(torch.Tensor, 1 << 40),
    "storage of 64 GiB": lambda: Call(torch.UntypedStorage, 1 << 36),
}
CONTAINERS = ("archive", "legacy", "bare")  # of torch.save, of its old format, of pickle alone
YAMLS = {
    "apply": "x: !!python/object/apply:os.system ['touch owned']",
    "new": "x: !!python/object/new:os.system ['touch owned']",
    "name": "x: !!python/name:os.system",
    "module": "x: !!python/module:evil",
    "object": "x: !!python/object:evil.Evil {}",
    "tuple": "x: !!python/tuple [1]",
    "callbacks": "hydra: {callbacks: {x: {_target_: os.system, command: touch owned}}}",
    "launcher": "hydra: {launcher: {_target_: os.system, command: touch owned}}",
    "sweeper": "hydra: {sweeper: {_target_: os.system}}",
    "job_logging": "hydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: owned}}}}",
    "env_set": "hydra: {job: {env_set: {LD_PRELOAD: ./evil.so}}}",
    "chdir": "hydra: {job: {chdir: true}, run: {dir: owned}}",
    "searchpath": "hydra: {searchpath: ['file://evil']}",
    "hydra null": "hydra: null",
    "target": "optimizer: {_target_: os.system, command: touch owned}",
    "target in a list": "sample_prompts: [{_target_: os.system}]",
    "environment": "name: ${oc.env:HOME}",
    "hydra's own": "name: ${hydra:runtime.cwd}",
    "in a key": "${oc.env:HOME}: 1",
    "alias": "x: &x [1]\ny: *x",
    "merge": "x: &x {a: 1}\ny: {<<: *x}",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
    "unknown part": "parts: {decoder: evil.Decoder}",
    "part out of the tree": "parts: {model: ../../evil}",
    "unknown group": "parts: {os: system}",
    "newer": "gptlab: {layout: 9999}",
}
TAKES_CONFIG = ("resume", "config", "config=", "check", "evaluate", "sample", "replay", "compare")
READ_ONLY = ("evaluate", "sample", "compare")
OF_TRAINING = ("unknown part", "part out of the tree", "unknown group")  # which the verbs above do not look at
MORE_VERBS = {
    "config=": ["train", "config=run", "run_dir=new", "budget.steps=1"],
    "check": ["check", "config=run/config.yaml"],
}
SWEEPS = {
    "callback": "+hydra.callbacks.x._target_=os.system",
    "target of a launcher": "hydra.launcher._target_=os.system",
    "setup": "hydra.launcher.setup=[touch owned]",
    "python": "+hydra.launcher.python=./evil.py",
    "line of a batch script": "hydra.launcher.partition=a\ntouch owned",
    "searchpath": "hydra.searchpath=[file://evil]",
    "option out of the tree": "experiment=../../evil",
    "launcher out of the tree": "hydra/launcher=../../evil",
    "class of a callback": "+callbacks.others.x._target_=evil.Evil",
    "class of a logger": "+logger.others.x._target_=evil.Evil",
    "environment": "name=${oc.env:HOME}",
    "env_set": "+hydra.job.env_set.LD_PRELOAD=./evil.so",
    "subdir": "hydra.sweep.subdir=../../owned",
    "storage": "hydra.sweeper.storage=sqlite:///owned",
    "search space": "+hydra.sweeper.custom_search_space=evil.f",
    "config-dir": "--config-dir=evil",
    "config-path": "-cp=evil",
    "rerun": "--experimental-rerun=evil.pkl",
}
FLAGS = {
    "config-name": ["{verb}", "--config-dir", "evil", "--config-name", "config"],
    "equals": ["{verb}", "--config-dir=evil", "--config-name=config"],
    "short": ["{verb}", "-cd", "evil", "-cn", "config"],
    "multirun": ["{verb}", "-cd", "evil", "-cn", "config", "-m"],
    "show": ["{verb}", "-cd", "evil", "-cn", "config", "--cfg", "job"],
    "config-path": ["{verb}", "--config-path", "evil", "--config-name", "config"],
    "abbreviated": ["{verb}", "--config-d", "evil", "--config-n", "config"],
    "rerun": ["{verb}", "--experimental-rerun", "evil/evil.pkl"],
}
FLAG_VERBS = ("train", "check", "sample", "evaluate", "report")
PAYLOADS = (
    len(PICKLES) * len(CONTAINERS) + len(YAMLS) + len(SWEEPS) + len(FLAGS) * len(FLAG_VERBS)
)  # of which each is tried


@pytest.fixture(autouse=True)
def _evil() -> None:
    """What payloads would run."""
    Path("evil").mkdir()
    for path in (Path("evil.py"), Path("evil/evil.py"), Path("evil/hubconf.py")):
        path.write_text(f"open({str(Path(OWNED).absolute())!r}, 'w')\ndef evil(): pass\n")
    for path in (Path("evil.pkl"), Path("evil/evil.pkl")):
        path.write_bytes(pickle.dumps(Call(os.system, f"touch {OWNED}")))


@pytest.mark.parametrize("name", PICKLES)
def test_no_checkpoint_runs_code(name: str, run: Path, ask: Ask) -> None:
    """The list of checksums is the payload's own: it is no protection here."""
    last = run / "checkpoints/last.ckpt"
    saved = torch.load(last, weights_only=True)
    for path in (run / "checkpoints").glob("*.ckpt"):
        path.unlink()
    for number, container in enumerate(CONTAINERS):
        for key in ("model", "state_dict", "callbacks"):
            content = {**saved, key: PICKLES[name]()}
            if container == "bare":
                last.write_bytes(pickle.dumps(content))
                (run / "checkpoints/SHA256SUMS").unlink(missing_ok=True)
            elif container == "legacy":
                torch.save(content, last, _use_new_zipfile_serialization=False)
                (run / "checkpoints/SHA256SUMS").unlink(missing_ok=True)
            else:
                save_by_hand(content, last)
            for read in (lambda: RunDir.find("run").load(), lambda: checkpoint_of(RunDir.find("run"))):
                with pytest.raises(UserError, match="is not a whole gptlab checkpoint") as error:
                    read()
                assert "\n" not in str(error.value)
        verb = ("sample", "export", "resume", "evaluate", "replay", "init_from")[(number + len(name)) % 6]
        assert ask(*VERBS[verb]) == 2
    assert not Path(OWNED).exists()


@pytest.mark.parametrize("name", YAMLS)
def test_no_config_runs_code(name: str, run: Path, ask: Ask) -> None:
    verb = TAKES_CONFIG[list(YAMLS).index(name) % len(TAKES_CONFIG)]
    values = yaml.safe_load((run / "config.yaml").read_text())
    try:
        added = yaml.safe_load(YAMLS[name])
        for key in added:
            values.pop(key, None)
    except yaml.YAMLError:
        pass
    (run / "config.yaml").write_text(f"{yaml.safe_dump(values)}\n{YAMLS[name]}\n")
    environment = dict(os.environ)
    assert ask(*VERBS["resume"]) == 2
    told = ask(*(MORE_VERBS | VERBS)[verb])
    assert told == 2 or (verb in READ_ONLY and name in OF_TRAINING)
    assert ask("report", "runs=.", "pictures=false") == 0
    assert not Path(OWNED).exists() and os.environ.get("LD_PRELOAD") == environment.get("LD_PRELOAD")


@pytest.mark.parametrize("name", SWEEPS)
def test_no_sweep_runs_code(name: str, ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    import json

    Path("swept").mkdir()
    Path("swept/sweep.json").write_text(json.dumps({"argv": ["-m", SWEEPS[name], "seed=1,2"]}))
    before = sorted(path.name for path in Path("swept").iterdir())
    assert ask("train", "resume_sweep=swept") == 2
    assert not Path(OWNED).exists() and sorted(path.name for path in Path("swept").iterdir()) == before


@pytest.mark.parametrize("name", FLAGS)
def test_no_flag_lets_hydra_compose_a_run(name: str, ask: Ask) -> None:
    evil = "hydra: {callbacks: {x: {_target_: os.system, command: touch owned}}}\n"
    evil += f"hydra_: 1\njob_logging: {{handlers: {{x: {{class: logging.FileHandler, filename: {OWNED}}}}}}}\n"
    Path("evil/config.yaml").write_text(evil)
    for verb in FLAG_VERBS:
        assert ask(*(part.format(verb=verb) for part in FLAGS[name])) == 2
    assert not Path(OWNED).exists()
