import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gptlab.commands.audit import audit
from gptlab.config import compose


def test_what_is_wrong_is_found(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "train.jsonl").write_text('{"text": "the same line of text"}\n' * 3 + '{"text": "one caf\\u00e9"}\n')
    (tmp_path / "val.jsonl").write_text('{"text": "all of the same line"}\n{"text": "nothing else"}\n')
    ask = ["data=text", "data.files=[train.jsonl]", "data.val_files=[val.jsonl]", "tokenizer=byte", "ngram=8"]
    result = audit(compose("audit", ask))
    assert result["train"]["documents"] == 4 and result["val"]["documents"] == 2
    assert result["duplicates"] == {"documents": 2, "tokens": 42}
    common = result["overlap"]
    assert (common["documents"], common["documents_seen"]) == (2, 1)
    assert common["ngrams_seen"] == len("the same line") - 8 + 1
    assert result["longest"][0]["begins"] == "the same line of text"
    assert result["hard_characters"]["worst"] == [{"character": "é", "times": 1, "tokens": 2}]
    assert result["ids"]["out_of_range"] == 0
    printed = capsys.readouterr().out
    assert "copies of an earlier document: 2 (42 tokens)" in printed and "1 of 2 documents" in printed


def test_ids_out_of_range_are_counted(tmp_path: Path) -> None:
    np.array([1, 2, 256, 300, 301] * 9, np.uint16).tofile(tmp_path / "train.bin")
    result = audit(
        compose("audit", ["data=tokens", "data.train=[train.bin]", "data.val_fraction=0.2", "tokenizer=byte"])
    )
    assert result["ids"] == {"n_vocab": 257, "used": 3, "out_of_range": 18}


def test_near_copies_and_separators_are_said(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("rensa")
    words = [f"word{i}" for i in range(60)]
    (tmp_path / "a.txt").write_text(" ".join(words) + "<|endoftext|>")
    (tmp_path / "b.txt").write_text(" ".join([*words[:30], "another", *words[33:]]))
    result = audit(
        compose("audit", ["data=text", "data.files=a.txt", "data.val_files=b.txt", "tokenizer=byte", "near=true"])
    )
    near = result["near_copies"]
    assert (near["documents"], near["held_out_of_training"]) == (1, 1)
    assert near["pairs"][0]["begins"].startswith("word0 word1 ")
    (note,) = result["notes"]
    assert note.startswith("<|endoftext|> stands 1 times")
    printed = capsys.readouterr().out
    assert "held-out ones of a training document: 1" in printed and note in printed


@pytest.mark.slow
@pytest.mark.new_processes
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = np.array(["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(5000)], object)
    peaks, drawn = [], np.random.default_rng(0)
    for documents in (5_000, 50_000):  # 2 and 23 MB
        with (tmp_path / "text.jsonl").open("w") as file:
            for chosen in drawn.integers(len(words), size=(documents, 80)):
                file.write(json.dumps({"text": " ".join(words[chosen])}) + "\n")
        command = [sys.executable, "-m", "gptlab", "audit", "data=text", "data.files=[text.jsonl]", "tokenizer=byte"]
        process = subprocess.Popen([*command, "json=true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))
    assert peaks[1] - peaks[0] < 60  # MB; twice the bytes of its tokens would be 40 MB more, and their n-grams 170
