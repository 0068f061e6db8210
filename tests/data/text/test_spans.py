import io
import itertools
import json
import random
from pathlib import Path

import pytest

from gptlab.data.text import spans as spans_module
from gptlab.data.text.readers import Chunk, Reading, read
from gptlab.data.text.sources import Bundled, Files
from gptlab.data.text.spans import spans
from gptlab.data.text.splits import count, survey, survey_counts
from gptlab.errors import UserError

READING = Reading("text", None, "strict")


def lines(seed: int, name: str, end: str = "\n", start: str = "") -> Path:
    """Write documents of very different lengths, with empty ones and lines between them."""
    rng, path = random.Random(seed), Path(name)
    texts = ["é猫x \n"[rng.randrange(5)] * rng.choice([0, 1, 3, 40, 400]) for _ in range(60)]
    text = "\n".join(json.dumps({"text": text}) + rng.choice(["", "\n", "\r"]) for text in texts)
    path.write_bytes((start + text + end).encode())
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 2999, 10**6])
def test_spans_have_the_documents_of_the_files_in_their_order(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "SPAN", size)
    paths = [lines(0, "a.jsonl", end=""), lines(1, "b.jsonl", start="\ufeff"), lines(2, "c.txt")]
    Path("empty.jsonl").write_text("")
    paths.insert(1, Path("empty.jsonl"))
    found = spans(paths, READING, "data.files")
    assert found is not None
    every = list(found)
    assert [c for span in every for c in span.chunks()] == [c for p in paths for c in read(p, READING, "data.files")]
    assert sum(span.size for span in every) == sum(path.stat().st_size for path in paths)
    assert all(span.size >= size for span in every[:-1])
    assert len(every) > 10 or size >= 1000


def test_only_lines_of_json_that_are_not_compressed_have_spans() -> None:
    first = lines(0, "a.jsonl")
    for name, content in {
        "b.txt": "plain",
        "c.csv": "text\na\n",
        "d.json": '[{"text": "a"}]',
        "e.jsonl.gz": "not read",
    }.items():
        Path(name).write_text(content)
        if not name.endswith(".gz"):
            assert spans([first, Path(name)], READING, "data.files") is None
    assert Files(files=["a.jsonl", "b.txt"]).spans() is None and Bundled().spans() is None
    files = Files(files=["a.jsonl"], val_files=[str(lines(1, "v.jsonl"))])
    for held_out, chunks in ((False, files.chunks()), (True, files.held_out())):
        found, expected = files.spans(held_out), list(chunks or [])
        assert found is not None and expected
        assert [chunk for span in found for chunk in span.chunks()] == expected


def test_a_line_that_is_no_json_is_refused_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "SPAN", 50)
    path = lines(0, "a.jsonl")
    path.write_bytes(path.read_bytes() + b'{"text": 3}\n')
    with pytest.raises(UserError, match=r"^data.files=a.jsonl: line \d+ has a int"):
        [list(span.chunks()) for span in spans([path], READING, "data.files") or []]


@pytest.mark.parametrize("val_fraction", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("few", [4, 1 << 16])
def test_counts_of_parts_add_up_to_the_survey_of_the_whole(
    val_fraction: float, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptlab.data.text.splits.FEW", few)
    rng = random.Random(0)
    texts = [f"{i} " + "<|endoftext|> é" * rng.randrange(20) for i in range(200)]
    one, two = io.BytesIO(), io.BytesIO()
    whole = survey([Chunk(text, begins=True) for text in texts], val_fraction, one)
    parts = [texts[:1], [], texts[1:3], texts[3:150], texts[150:]]
    assert survey_counts(map(count, parts), val_fraction, two) == whole
    assert one.getvalue() == two.getvalue() and len(one.getvalue()) == 200 * 10
    assert whole.documents == 200 and whole.marks


def test_one_document_alone_is_cut_like_that_of_a_survey() -> None:
    text = "a long document " * 100
    whole = survey([Chunk(text, begins=True)], 0.1, io.BytesIO())
    assert survey_counts([count([text])], 0.1, io.BytesIO()) == whole and whole.cuts == [1440]


def test_nothing_in_files_is_nothing_in_spans() -> None:
    Path("a.jsonl").write_text("\n\n")
    assert list(itertools.chain.from_iterable(s.chunks() for s in spans([Path("a.jsonl")], READING, "k") or [])) == []
