"""What is told of the preparation of text, counted by hand."""

import gzip
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gptlab.data.text.sources import Files
from gptlab.data.tokens.prepare import prepare
from gptlab.data.tokens.progress import watching
from gptlab.data.tokens.surveys import Watch
from gptlab.tokenizers.bpe import BPE

TEXT = "the cat säß on a mat. " * 300


def told(files: dict[str, bytes]) -> list[tuple[str, int, int]]:
    """Return what was begun while files became tokens, with the bytes that it takes and those that were told."""
    for name, content in files.items():
        Path(name).write_bytes(content)
    stages: list[tuple[str, int, int]] = []

    def advance(size: int) -> None:
        what, total, done = stages[-1]
        stages[-1] = what, total, done + size

    data = Files(files=list(files), separator=None)
    prepare(data, BPE(vocab_size=300), Watch(lambda what, size: stages.append((what, size, 0)), advance))
    return stages


def test_all_bytes_are_read_once_and_their_number_is_known_before() -> None:
    """Files of several kinds: read by their size on disk, encoded by the size of their text; one byte is not one
    character."""
    records = "".join(json.dumps({"text": f"{i} {TEXT}", "other": "x" * 99}) + "\n" for i in range(9))
    files = {"a.txt": TEXT.encode(), "b.jsonl": records.encode(), "c.txt.gz": gzip.compress(TEXT.encode() * 2)}
    on_disk = sum(map(len, files.values()))
    text = 12 * len(TEXT.encode()) + 9 * 2
    (reading, *found), (building, trained, built), made = told(files)
    assert (reading, *found) == ("reading", on_disk, on_disk)
    assert made == ("making tokens", text, text)
    assert (building, trained) == ("building the tokenizer", text) and 0 < built < text  # it is built on a part


def test_tables_are_told_by_whole_files() -> None:
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    content = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": [f"{i} {TEXT}" for i in range(20)]}), content)
    size = len(content.getvalue())
    assert told({"a.parquet": content.getvalue()})[0] == ("reading", size, size)


def test_a_log_has_a_line_for_what_begins_and_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, 10.0, 29.0, 31.0, 31.0, 45.0, 62.0, 62.0])
    monkeypatch.setattr("gptlab.data.tokens.progress.time.monotonic", lambda: next(times))
    log = io.StringIO()
    with watching(Console(file=log, width=80)) as watch:
        watch.begin("reading", 0)
        watch.begin("making tokens", 5_000_000)
        for _ in range(5):
            watch.advance(500_000)
    assert log.getvalue().splitlines() == [
        "reading",
        "making tokens: 5.0 MB",
        "making tokens: 1.5 MB of 5.0 MB",
        "making tokens: 2.5 MB of 5.0 MB",
    ]
