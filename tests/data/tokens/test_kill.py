import json
import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from tests.conftest import WORDS

MB = int(os.environ.get("GPTLAB_KILL_MB", 100))  # of text

SCRIPT = """
import json
import multiprocessing
import re
from pathlib import Path

from gptlab.data.tokens import prepare
from gptlab.data.text.sources import Files
from gptlab.tokenizers.bpe import BPE

if __name__ == "__main__":
    stage = done = 0

    def megabytes(process, which):  # VmRSS: now, VmHWM: at its peak
        status = Path(f"/proc/{process}/status").read_text()
        return int(re.search(which + r":\\s+(\\d+)", status)[1]) / 1024

    workers = {}

    def begin(what, size):
        global stage
        stage = what

    def advance(size):
        global done
        done += size * (stage == "making tokens")
        print(done, flush=True)
        for worker in multiprocessing.active_children():
            workers[worker.pid] = megabytes(worker.pid, "VmHWM")

    watch = prepare.Watch(begin, advance)
    before = megabytes("self", "VmRSS")
    tokenizer = BPE(vocab_size=400, max_bytes=1_000_000)
    prepare.prepare(Files(files=["*.txt"]), tokenizer, watch, processes=2, section=1 << 23)
    own = megabytes("self", "VmHWM") - before
    Path("memory.json").write_text(json.dumps({"own": own, "workers": list(workers.values())}))
"""


def alive(marker: str) -> list[int]:
    """Processes with this word in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # gone, or somebody else's
            pass
    return found


def run(cache: Path, kill_after: int | None = None, delay: float = 0.0) -> list[int]:
    """Prepare the text in a process of its own; kill it a moment after so many bytes; what it printed."""
    marker = uuid.uuid4().hex
    environment = {**os.environ, "GPTLAB_CACHE": str(cache), "MARKER": marker}
    done = []
    with subprocess.Popen(
        [sys.executable, "script.py"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done.append(int(line))
            if kill_after is not None and done[-1] >= kill_after:
                time.sleep(delay)
                assert len(alive(marker)) > 2  # itself and its pool
                process.kill()
                break
    assert process.returncode == (0 if kill_after is None else -9)
    deadline = time.monotonic() + 20
    while alive(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(marker) == []
    return done


def shards(cache: Path) -> dict[str, bytes]:
    """Return all files that count as complete shards."""
    folders = [path for path in (cache / "shards").iterdir() if path.is_dir() and path.suffix != ".partial"]
    return {str(p.relative_to(cache)): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}


@pytest.mark.slow
@pytest.mark.new_processes
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_constant_memory_and_a_run_killed_again_and_again_ends_with_the_same_files(tmp_path: Path) -> None:
    rng = random.Random(7)
    for i in range(10):
        text = " ".join(rng.choices(WORDS, k=MB * 23_000))  # of 4.4 characters on average
        (tmp_path / f"{i:02d}.txt").write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    steps = run(tmp_path / "unkilled")
    size = steps[-1]
    assert size > MB * 900_000
    memory = json.loads((tmp_path / "memory.json").read_text())
    print(f"{size / 1e6:.0f} MB of text: {memory['own']:.0f} MB above the start, workers {memory['workers']}")
    assert 10 < memory["own"] and len(memory["workers"]) == 2
    assert memory["own"] + sum(memory["workers"]) < 1000  # megabytes, the workers' interpreters included
    expected = shards(tmp_path / "unkilled")
    assert len(expected) > 20
    for share in sorted(rng.uniform(0.05, 0.7) for _ in range(3)):
        run(tmp_path / "killed", int(share * size), rng.uniform(0, 0.02))
        assert shards(tmp_path / "killed") == {}
    assert len(run(tmp_path / "killed")) < len(steps) / 2  # whole sections were kept
    assert shards(tmp_path / "killed") == expected
