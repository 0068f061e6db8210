"""Who may import whom: arrows never point back up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src/gptlab"
GROUND = {"files", "errors", "metrics", "registry", "randomness"}
# room -> the rooms of gptlab it may use; commands may use anything
MAY_USE = {
    "registry": set(),
    "randomness": set(),
    "files": set(),
    "errors": set(),
    "metrics": set(),
    "tokenizers": GROUND,
    "model": GROUND,
    "optim": GROUND,
    "decoding": GROUND,
    "data": GROUND | {"tokenizers"},
    "distributed": GROUND | {"config", "training"},
    "runs": GROUND | {"tokenizers", "model", "data", "config"},
    "planning": GROUND | {"model"},
    "training": GROUND
    | {
        "tokenizers",
        "model",
        "optim",
        "decoding",
        "data",
        "runs",
        "config",
        "planning",
        "distributed",
    },
    "config": GROUND | {"tokenizers", "model", "optim", "decoding", "data", "training", "commands"},
    "sweep": GROUND | {"config", "commands", "training"},
    "evaluation": GROUND | {"commands", "runs", "data", "model", "tokenizers", "reporting"},
    "reporting": GROUND | {"config", "runs", "tokenizers", "model", "planning", "training"},
    "interop": GROUND | {"model", "tokenizers", "commands", "runs"},
    "__main__": {"commands"},
    "__init__": {"runs", "model", "tokenizers"},
}
# outside library -> the rooms it may be seen in
ONLY_IN = {
    "lightning": {"training", "data", "distributed"},
    "hydra": {"config", "commands", "sweep"},
    "omegaconf": {"config", "commands", "sweep", "training"},
    "tiktoken": {"tokenizers"},
    "tiktoken_ext": {"tokenizers"},
    "tokenizers": {"tokenizers", "interop"},
    "rich": {"training", "sweep", "commands", "evaluation", "reporting", "data"},
    "scipy": {"evaluation", "commands"},
    "matplotlib": {"reporting"},
    "wandb": {"training"},
    "datasets": {"data"},
    "pyarrow": {"data"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_arrows_point_down(path: Path) -> None:
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "gptlab" and rest:
            inner = rest.partition(".")[0]
            assert inner == room or room == "commands" or inner in MAY_USE[room], f"{room} imports {inner}"
        assert room in ONLY_IN.get(top, {room}), f"{room} imports {top}"


@pytest.mark.parametrize("argv", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_a_config_is_shown_without_waiting_for_torch(argv: list[str]) -> None:
    slow = {"torch", "lightning"}
    code = f"import sys, gptlab.commands.main; gptlab.commands.main.main(['train', *{argv}]); sys.exit(bool({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "model" in done.stdout, done.stderr
