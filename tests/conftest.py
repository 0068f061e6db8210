import contextlib
import gc
import os
import signal
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# the workers share the cores, and threads that wait for each other spin; before torch reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is fetched, and nothing waits for a network

import torch

from gptlab.checksums import digest, write_checksums
from gptlab.config import compose
from gptlab.data.bundled_tasks import bundled_task
from gptlab.data.text import bundled, questions
from gptlab.training.config import TrainConfig
from tests.forked import Child
from tests.slurm import slurm as slurm  # a fixture for all
from tests.written_runs import make_run as make_run

ROOT = Path(__file__).resolve().parents[1]

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "red",
    "bird",
    "fly",
    "over",
    "some",
    "green",
    "hill",
    "while",
    "two",
    "dogs",
    "ran",
    "home",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=int, default=20, help="SIGKILLs of tests/faults; from 200 on, all its cases")
    parser.addoption("--rewrite-trust", action="store_true", help="write the table of docs/trust.md again")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Single files run here, where nothing waits for workers, and `-s` shows what a test prints."""
    return 0 if all(".py" in arg for arg in config.args) else None


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what has been imported, which is a million objects that stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """Choose every fourth of many like cases, or another share, from one that depends on the test's name on.

    All of them with --faults=200.
    """

    def some(cases: Sequence[Any], every: int = 4) -> list[Any]:
        step = 1 if request.config.getoption("faults") >= 200 else every
        return list(cases[zlib.crc32(request.node.name.encode()) % step :: step])

    return some


@pytest.fixture(scope="session", autouse=True)
def _bundled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is read of Python's library is cached for all tests together, and for all workers; other caches are theirs."""
    own = tmp_path_factory.getbasetemp()
    folder = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        for module in (bundled, bundled_task, questions):
            patch.setattr(module, "cache_dir", lambda: folder / "of-all-tests")
        yield


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder with a cache of its own, as a fixture of many tests does; `_isolated` does it for each test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(autouse=True)
def _isolated(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in its own folder, with its own cache, and the same random numbers.

    The commands and scripts that it starts are forks of this process, unless it is marked by `new_processes`.
    """
    if not request.node.get_closest_marker("new_processes"):
        monkeypatch.setattr(subprocess, "Popen", Child)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real texts and GPT-2's vocabulary, which the project does not carry."""
    folder = Path(os.environ.get("GPTLAB_TEST_DATA", ROOT.parent / "shared/data"))
    if not (folder / "the-verdict.txt").exists():
        pytest.skip(f"no test data in {folder}; set GPTLAB_TEST_DATA")
    return folder


@pytest.fixture
def gpt2_cache(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data / "tiktoken_cache"))


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """Forty small documents on disk, as the value of data.files."""
    return write_texts(tmp_path / "texts")


def write_texts(folder: Path) -> str:
    folder.mkdir()
    for i in range(40):
        words = [WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(60)]
        (folder / f"{i:02d}.txt").write_text(" ".join(words) + f" number {i}.\n")
    return f"[{folder}/*.txt]"


@pytest.fixture
def tiny(texts: str, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a function that makes the config of a run of about a second: tiny(*overrides)."""

    def tiny(*overrides: str) -> TrainConfig:
        return compose("train", [*tiny_overrides(texts), f"run_dir={tmp_path}/run", *overrides])

    return tiny


def start(command: list[str], stderr: int | None = None) -> subprocess.Popen[str]:
    """Start a command that heeds Ctrl-C and SIGHUP, which a shell or nohup may let all of these tests ignore."""

    def heed() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, preexec_fn=heed)


def tiny_overrides(texts: str) -> list[str]:
    return ["data=text", f"data.files={texts}", "tokenizer=byte", "data.batch_size=4", *tiny_model()]


def tiny_model() -> list[str]:
    """Return the overrides of a tiny run that do not choose its text."""
    return [
        "model.n_layer=2",
        "model.n_head=2",
        "model.n_embd=16",
        "model.block_size=32",
        "budget.steps=6",
        "trainer=cpu",
        "trainer.val_every_n_steps=3",
        "schedule.warmup_steps=1",
        "sample_prompts=[the cat]",
        "logger.every_n_steps=2",
    ]


PADDED = ["model.vocab_size=320", "model.tied=false"]  # of tokenizer=byte, which has 257


def raise_padding(checkpoint: Path) -> None:
    """Make the padding ids of a run that was trained with PADDED more probable than all others, everywhere."""
    saved = torch.load(checkpoint, weights_only=True)
    weights = saved["state_dict"]
    weights["gpt.ln_f.bias"] += 10.0  # what the head reads then sums to 160 or so
    weights["gpt.lm_head.weight"][257:] = 1.0
    save_by_hand(saved, checkpoint)


def save_by_hand(saved: object, checkpoint: Path) -> None:
    """Replace a checkpoint, and make the list of checksums again, as `sha256sum *.ckpt > SHA256SUMS` does."""
    torch.save(saved, checkpoint)
    write_checksums(checkpoint.parent, {path.name: [digest(path)] for path in checkpoint.parent.glob("*.ckpt")})
