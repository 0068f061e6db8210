"""What a tokenizer declares, in evaluation: bos before a document, ends behind it, exact bytes; against transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptlab
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.import_ import import_
from gptlab.config import compose
from tests.tokenizers.directories import TEXT, llama, metaspace, saved

DOCUMENTS = [TEXT.strip(), "My lord, the world says hello.", "hello world " * 12 + "again"]
T = 8


@pytest.fixture
def model(tmp_path: Path) -> Any:
    """A Llama of transformers with its tokenizer, imported into `run`."""
    made = metaspace(special_bytes=False)
    theirs = llama(made)
    saved(tmp_path / "hf", theirs, made)
    import_(compose("import", ["hf=hf", "out=run"]))
    return theirs.double(), made


def write(documents: Sequence[str]) -> str:
    Path("texts").mkdir()
    for number, text in enumerate(documents):
        Path(f"texts/{number}.txt").write_text(text)
    return "[texts/*.txt]"


def nats(theirs: Any, ids: Sequence[int], counts: Sequence[bool]) -> tuple[float, int]:
    """The cost of each id that counts, in windows of T one after another, in float64."""
    total, number = 0.0, 0
    for start in range(0, len(ids) - 1, T):
        x = torch.tensor([ids[start : start + T + 1]])
        with torch.no_grad():
            logprobs = theirs(x[:, :-1]).logits[0].log_softmax(-1)
        for at, token in enumerate(x[0, 1:].tolist()):
            if counts[start + at + 1]:
                total -= logprobs[at, token].item()
                number += 1
    return total, number


@pytest.mark.parametrize("n", [1, 3])
def test_bos_is_before_a_document_and_its_own_end_behind(n: int, model: Any) -> None:
    theirs, made = model
    files, ids, counts = write(DOCUMENTS[:n]), list[int](), list[bool]()
    for number, text in enumerate(DOCUMENTS[:n]):
        between = [2, 1] if number else [1]  # </s> <s>; nothing has to predict <s>
        own = made.encode(text, add_special_tokens=False)
        ids += [*between, *own]
        counts += [each == 2 for each in between] + [True] * len(own)
    expected, number = nats(theirs, ids, counts)
    found = evaluate(
        compose("evaluate", ["run=run", f"block_size={T}", "data=text", f"data.files={files}", "data.val_fraction=1"])
    )
    assert found["tokens"] == number
    assert found["loss"] == pytest.approx(expected / number, abs=1e-5)
    size = sum(len(text.encode()) for text in DOCUMENTS[:n])
    assert found["bits_per_byte"] == pytest.approx(expected / np.log(2) / size, abs=1e-5)
    assert found["protocol"]["begins_with"] == "<s>"
    if n == 1:
        asked = ["run=run", f"block_size={T}", "explain=true", "text=texts/0.txt"]
        explained = evaluate(compose("evaluate", asked))
        assert explained["loss"] == pytest.approx(found["loss"], abs=1e-12)
        assert explained["protocol"]["block_size"] == T


def test_comparison_reads_the_same_documents_to_the_byte(model: Any) -> None:
    asked = [
        "a=run",
        "b=run",
        f"block_size={T}",
        "data=text",
        f"data.files={write(DOCUMENTS)}",
        "data.val_fraction=1",
        "resamples=1000",
    ]
    found = compare(compose("compare", asked))
    assert found["bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    assert found["difference"]["value"] == 0 and found["documents_left_out"] == 0
    scored = evaluate(
        compose(
            "evaluate", ["run=run", f"block_size={T}", "data=text", "data.files=[texts/*.txt]", "data.val_fraction=1"]
        )
    )
    assert found["runs"][0]["tokens"] == scored["tokens"]
    assert found["runs"][0]["loss"] == pytest.approx(scored["loss"], abs=1e-9)


def test_bytes_of_token_files_are_exact(model: Any) -> None:
    _, made = model
    ids = [each for text in DOCUMENTS for each in (1, *made.encode(text, add_special_tokens=False), 2)]
    np.array(ids, np.uint16).tofile("all.bin")
    (Path("empty.bin")).write_bytes(np.array(ids[:200], np.uint16).tobytes())
    asked = ["run=run", f"block_size={T}", "data=tokens", "data.train=[empty.bin]", "data.val=[all.bin]"]
    found = evaluate(compose("evaluate", asked))
    assert found["bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    assert gptlab.load("run")[1].decode_bytes(ids[1:-1][:10]) == made.decode(ids[1:-1][:10]).encode()
