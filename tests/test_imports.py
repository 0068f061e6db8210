"""Who may import whom, room by room, and that no file imports itself in a circle (DESIGN.md)."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
EVERYTHING = {""}
# for all; they import errors alone, and checksums files
GROUND = {"batch_sizes", "bf16", "metrics", "errors", "files", "checksums", "registry", "randomness", "version"}
# a room, or one of its files, -> the rooms, or their files, that it may import besides itself and the ground
MAY_IMPORT = {
    "commands": EVERYTHING,
    "app": EVERYTHING,
    "__init__": EVERYTHING,
    "__main__": {"commands"},
    "sweep": {"runs", "config", "distributed", "plugins"},
    "training": {
        "tasks",
        "data",
        "model",
        "optim",
        "decoding",
        "tokenizers",
        "distributed",
        "runs",
        "planning",
        "plugins",
        "interop",
    },
    "evaluation": {"tasks", "data", "model", "optim", "decoding", "tokenizers", "distributed", "runs"},
    "reporting": {"runs", "evaluation", "planning", "tasks"},
    "interop": {"model", "tokenizers", "runs"},
    "distributed": {"runs"},
    "runs": {"model", "tokenizers", "plugins"},
    "tasks": {"model", "data/batches", "data/config", "decoding", "tokenizers", "plugins", "runs"},
    "data": {"tokenizers"},
    "tokenizers": set(),
    "planning": {"model/config"},
    "model": set(),
    "optim": set(),
    "decoding": set(),
    "config": {"runs/config_file", "runs/run_dir", "plugins"},
    "batch_sizes": set(),
    "bf16": set(),
    "metrics": set(),
    "errors": set(),
    "files": set(),
    "checksums": {"files"},
    "registry": set(),
    "randomness": set(),
    "version": set(),
    "plugins": set(),
}
# a library -> the rooms, or their files, that may import it
ONLY_IN = {
    "lightning": {"training", "data/batches", "data/config", "distributed/processes", "distributed/loopback"},
    "hydra": {"config", "commands", "sweep"},
    "omegaconf": {"config", "commands", "sweep"},
    "rich": {"commands", "reporting", "sweep", "training", "data/progress", "data/tokens/progress"},
    "torch": {
        *(
            "app/served",
            "app/study",
            "app/writing",
            "bf16",
            "commands",
            "data/batches",
            "decoding",
            "distributed",
            "evaluation",
            "interop",
            "metrics",
            "model",
        ),
        *("optim", "runs/adapted", "runs/own_model", "runs/stored_model", "runs/checkpoint_file", "runs/weight_mean"),
        *("planning/limits", "planning/memory", "tasks", "training"),
    },
    "jinja2": {"tokenizers", "app/pages"},
    "starlette": {"app"},
    "uvicorn": {"app"},
    "evalica": {"evaluation"},
    "tiktoken": {"tokenizers"},
    "tiktoken_ext": {"tokenizers"},
    "tokenizers": {"tokenizers"},
    "lm_eval": {"evaluation"},
    "scipy": {"evaluation", "planning/scaling"},
    "torchmetrics": {"evaluation"},
    "matplotlib": {"reporting", "tasks/class_pictures"},
    "wandb": {"training"},
    "mlflow": {"training"},
    "datasets": {"data"},
    "optuna": {"sweep/search"},
    "pyarrow": {"data"},
}


def files_of(src: Path) -> dict[str, Path]:
    """Return the files of the package by their module paths, `data/tokens/shards`; those of a room as `data/__init__`."""
    package = src / "gptlab"
    return {str(path.relative_to(package).with_suffix("")): path for path in sorted(package.rglob("*.py"))}


def imported(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every module that a file imports, with the names taken from it; also in functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: an import that begins with a dot"
            yield str(node.module), tuple(alias.name for alias in node.names)


def graph_of(src: Path) -> dict[str, set[str]]:
    """Return the files that each file imports; a package stands for its __init__."""
    files = files_of(src)

    def resolved(module: str, names: tuple[str, ...]) -> Iterator[str]:
        below = "/".join(module.split(".")[1:])
        inner = [f"{below}/{name}".lstrip("/") for name in names]
        modules = [name if name in files else f"{name}/__init__" for name in inner]
        yield from (name for name in modules if name in files)
        if not names or any(name not in files for name in modules):
            yield below if below in files else f"{below}/__init__".lstrip("/")

    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        graph[name] = set()
        for module, names in imported(path):
            if module.partition(".")[0] == "gptlab":
                graph[name] |= set(resolved(module, names)) - {name}
    return graph


def within(file: str, places: set[str]) -> bool:
    """Return whether a file is one of the places, or below one."""
    return any(place == "" or file == place or file.startswith(f"{place}/") for place in places)


def room_of(file: str) -> str:
    return file.partition("/")[0]


def wrong_arrows(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that MAY_IMPORT does not allow, as (file, imported file)."""
    wrong = set()
    for file, targets in graph.items():
        room = room_of(file)
        ground = {"errors"} if room in GROUND else GROUND
        for target in targets:
            if room_of(target) != room and not within(target, MAY_IMPORT[room] | ground):
                wrong.add((file, target))
    return wrong


def wrong_libraries(src: Path) -> set[tuple[str, str]]:
    """Return the imports that ONLY_IN does not allow, as (file, library)."""
    wrong = set()
    for file, path in files_of(src).items():
        for module, _ in imported(path):
            library = module.partition(".")[0]
            if library in ONLY_IN and not within(file, ONLY_IN[library]):
                wrong.add((file, library))
    return wrong


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components of more than one file (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(file: str) -> None:
        index[file] = low[file] = len(index)
        stack.append(file)
        for target in sorted(graph[file]):
            if target not in index:
                visit(target)
                low[file] = min(low[file], low[target])
            elif target in stack:
                low[file] = min(low[file], index[target])
        if low[file] == index[file]:
            at = stack.index(file)
            if len(stack) - at > 1:
                found.append(set(stack[at:]))
            del stack[at:]

    for file in sorted(graph):
        if file not in index:
            visit(file)
    return found


def registered(src: Path) -> list[str]:
    """Return the modules whose source registers a part."""
    line = re.compile(r"^@(?:\w+\.)?option\(", re.MULTILINE)
    files = files_of(src).items()
    return [f"gptlab.{name.replace('/', '.')}" for name, path in files if line.search(path.read_text("utf-8"))]


def test_every_room_is_in_the_list() -> None:
    assert {room_of(file) for file in files_of(SRC)} <= set(MAY_IMPORT)


@pytest.mark.slow
def test_arrows_point_down() -> None:
    assert wrong_arrows(graph_of(SRC)) | wrong_libraries(SRC) == set()


def test_no_circle_of_files() -> None:
    assert [sorted(each) for each in circles(graph_of(SRC))] == []


@pytest.mark.parametrize("module", registered(SRC))
def test_a_part_s_config_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}; print(*{{'torch', 'lightning'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "", done.stdout + done.stderr


@pytest.mark.parametrize("argv", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_a_config_is_shown_without_waiting_for_torch(argv: list[str]) -> None:
    slow = {"torch", "lightning"}
    code = f"import sys, gptlab.commands.main; gptlab.commands.main.main(['train', *{argv}]); sys.exit(bool({slow} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "model" in done.stdout, done.stderr


# the tests of the test: a small tree in which one arrow is turned round


def tree(src: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = src / "gptlab" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return src


ARROWS = [
    (room, target)
    for room, targets in MAY_IMPORT.items()
    if room != "__main__"  # commands may import it back
    for target in sorted(targets - EVERYTHING | (GROUND if room not in GROUND else {"errors"} - {room}))
]
IMPORTS = {
    "at the top": "from gptlab.{} import x\n",
    "of the module": "import gptlab.{}\n",
    "in a function": "def f():\n    from gptlab.{} import x\n",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gptlab.{} import x\n",
}


@pytest.mark.parametrize(("room", "target"), ARROWS)
def test_an_arrow_that_is_turned_round_is_found(room: str, target: str, tmp_path: Path) -> None:
    upper = room if room in GROUND or room.startswith("__") else f"{room}/a"
    lower = target if target in GROUND or "/" in target else f"{target}/b"
    for line in IMPORTS.values():
        down = graph_of(tree(tmp_path, {upper: line.format(lower.replace("/", ".")), lower: ""}))
        assert down[upper] == {lower} and wrong_arrows(down) == set()
        up = graph_of(tree(tmp_path, {upper: "", lower: line.format(upper.replace("/", "."))}))
        assert up[lower] == {upper} and wrong_arrows(up) == {(lower, upper)}


@pytest.mark.parametrize(("first", "second"), list(product(IMPORTS, IMPORTS)))
def test_a_circle_is_found(first: str, second: str, tmp_path: Path) -> None:
    files = {
        "a/x": IMPORTS[first].format("b.y"),
        "b/y": "from gptlab.c import z\n",
        "c/z": IMPORTS[second].format("a.x"),
    }
    graph = graph_of(tree(tmp_path, {**files, "c/__init__": "", "d": "import gptlab.a.x\n"}))
    assert circles(graph) == [{"a/x", "b/y", "c/z"}]
    graph["c/z"] = set()
    assert circles(graph) == []


def test_a_package_that_its_own_file_imports_is_a_circle(tmp_path: Path) -> None:
    files = {"a/__init__": "from gptlab.a.x import one\n", "a/x": "from gptlab.a import two\n"}
    assert circles(graph_of(tree(tmp_path, files))) == [{"a/__init__", "a/x"}]
    files["a/x"] = "from gptlab.a import y\n"
    assert circles(graph_of(tree(tmp_path, {**files, "a/y": ""}))) == []


def test_a_library_in_the_wrong_room_is_found(tmp_path: Path) -> None:
    files = {
        "runs/reader": "import hydra.core\n",
        "data/text/a": "def f():\n    import torch\n",
        "sweep/a": "import hydra\n",
    }
    assert wrong_libraries(tree(tmp_path, files)) == {("runs/reader", "hydra"), ("data/text/a", "torch")}
