"""JSON lines that several processes read, hash and encode give what one process gives that reads them as a stream."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from gptlab.data.text import spans as spans_module
from gptlab.data.text.sources import Files, Mixture
from gptlab.data.tokens import encode, prepare, workers
from gptlab.data.tokens.prepare import Corpus
from gptlab.errors import UserError
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "ALONE", 100)
    monkeypatch.setattr(spans_module, "SPAN", 500)


def lines(name: str, seed: int, documents: int = 150, rest: str = "") -> str:
    rng = random.Random(seed)
    texts = [f"{seed}.{i} " + "the café's 猫 sat, " * rng.randrange(9) for i in range(documents)]
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts) + rest)
    return name


def made(data: Any, cache: str, processes: int, patch: pytest.MonkeyPatch, **options: Any) -> Corpus:
    patch.setenv("GPTLAB_CACHE", str(Path(cache).absolute()))
    return prepare.prepare(data, BPE(vocab_size=300), processes=processes, **options)


def contents(corpus: Corpus) -> dict[str, Any]:
    """Return the hash of the text, the counts and the tokens of a corpus, which do not depend on its shards."""
    streams = {"train": corpus.train[0], "val": corpus.val}
    starts = {part: stream.document_starts(corpus.tokenizer.eot).tolist() for part, stream in streams.items()}
    ids = {part: stream[:].tolist() for part, stream in streams.items()}
    return {"sha256": corpus.manifest["sha256"], **corpus.sizes(), "starts": starts, "ids": ids, "notes": corpus.notes}


@pytest.mark.parametrize("val_files", [[], ["v.jsonl"]])
def test_two_processes_one_and_a_stream_make_the_same_tokens(
    val_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines("v.jsonl", 9, 20)
    data = Files(files=[lines("a.jsonl", 0), lines("b.jsonl", 1)], val_files=val_files)
    two = made(data, "two", 2, monkeypatch, section=3000)
    assert len(two.train[0].shards) > 3
    with monkeypatch.context() as patch:
        patch.delattr("gptlab.data.tokens.surveys.survey_counts")  # one process reads the text as a stream
        one = made(data, "one", 1, patch, section=3000)
    assert (one.manifest, contents(one)) == (two.manifest, contents(two))
    with monkeypatch.context() as patch:
        patch.setattr(Files, "spans", lambda self, held_out=False: None)
        stream = made(data, "stream", 1, patch)
    assert contents(stream) == contents(made(data, "whole", 2, monkeypatch))
    of_shards = {"sha256"} if val_files else set()  # the hash is of the held-out shards then
    assert all(contents(two)[key] == value for key, value in contents(stream).items() if key not in of_shards)
    assert two.manifest["val"]["documents"] > 3


def test_only_one_part_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Files(files=[lines("a.jsonl", 0)])
    whole = made(data, "whole", 2, monkeypatch)
    val = made(data, "val", 2, monkeypatch, parts=["val"])
    assert val.manifest["val"]["tokens"] == whole.manifest["val"]["tokens"] > 0 == val.manifest["train"]["tokens"]


def test_what_depends_on_the_numbers_of_documents_is_read_as_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    held = json.dumps({"text": "0.7 is held out"}) + "\n"
    Path("v.jsonl").write_text(held)
    copies = Files(files=[lines("a.jsonl", 0, rest=held)], val_files=["v.jsonl"])
    assert made(copies, "copies", 2, monkeypatch).manifest["train"]["documents"] == 150
    one = Files(files=[lines("one.jsonl", 0, documents=1, rest=json.dumps({"text": "long " * 200}))])
    assert made(one, "one", 2, monkeypatch).val_is_cut  # the ends of its documents are held out
    both = Mixture(parts={"a": copies, "b": Files(files=[lines("b.jsonl", 1)])})
    assert made(both, "both", 2, monkeypatch).manifest["sources"]["b"]["train"]["documents"] > 100


def test_a_line_that_is_no_json_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Files(files=[lines("a.jsonl", 0, rest='{"text": 3}\n')])
    with pytest.raises(UserError, match=r"^data\.files=a\.jsonl: line 151 has a int as 'text', not text; "):
        made(data, "cache", 2, monkeypatch)


def test_a_killed_run_goes_on_without_reading_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Files(files=[lines("a.jsonl", 0)])
    whole = made(data, "whole", 1, monkeypatch, section=3000)
    encoded: list[int] = []

    def encode_some(job: Any, tokenizer: Any) -> Any:
        encoded.append(job.size)
        if len(encoded) == 30:
            raise KeyboardInterrupt
        return of_job(job, tokenizer)

    of_job = encode.encode
    monkeypatch.setattr(encode, "encode", encode_some)
    with pytest.raises(KeyboardInterrupt):
        made(data, "killed", 1, monkeypatch, section=3000)
    kept = len(list(Path("killed").rglob("section-*.json")))
    before = len(encoded)
    again = made(data, "killed", 1, monkeypatch, section=3000)
    assert kept > 1 and contents(again) == contents(whole)
    assert again.manifest == whole.manifest
    assert len(encoded) - before < 60  # of some 70 in all: those of the kept sections are not encoded again


def test_tokens_that_are_there_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Files(files=[lines("a.jsonl", 0)])
    first = made(data, "cache", 2, monkeypatch, section=3000)
    monkeypatch.setattr(workers.Workers, "map", lambda *asked: pytest.fail("a process was started"))
    assert contents(made(data, "cache", 2, monkeypatch, section=3000)) == contents(first)


def test_a_mistake_goes_from_a_process_to_another() -> None:
    with workers.workers(2) as pool, pytest.raises(UserError, match=r"^run=7: why; todo$") as caught:
        list(pool.map(mistaken, [7]))
    assert caught.value.value == 7


def mistaken(value: int) -> None:
    raise UserError("run", value, "why", "todo")


def test_results_come_in_order() -> None:
    with workers.workers(2) as pool:
        assert list(pool.map(str, range(50))) == list(map(str, range(50))) == list(pool.map(str, range(50)))


def test_a_tokenizer_that_ends_documents_by_another_token_reads_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Files(files=[lines("a.jsonl", 0)])
    tokenizer = Byte().build([])
    (text,) = prepare.survey_all({"": data}, prepare.Watch(), workers.Workers(1))
    assert prepare._units(text, tokenizer, prepare.PARTS)[0] == "-spans"
    monkeypatch.setattr(type(tokenizer), "end_of_document", 5)
    assert prepare._units(text, tokenizer, prepare.PARTS)[0] == ""
