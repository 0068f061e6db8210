from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gptlab
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.evaluation.documents import Units, common_documents, cost
from gptlab.runs.run_dir import RunDir
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]


def a_run(tiny: Tiny, tmp_path: Path, name: str, *overrides: str) -> RunDir:
    train(tiny("budget.steps=1", "data.val_fraction=0.3", f"run_dir={tmp_path}/{name}", *overrides))
    return RunDir.find(f"{tmp_path}/{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "reading", [[], ["data.packing=documents"], ["data.packing=documents", "data.mask_documents=true"]]
)
def test_what_each_document_costs(tiny: Tiny, tmp_path: Path, reading: list[str]) -> None:
    """Against one forward pass a token, in float64, over the text as the windows cut it."""
    run = a_run(tiny, tmp_path, "a", "model.block_size=48", *reading)
    texts, (ids,), left_out = common_documents([run], None)
    assert len(texts) > 5 and left_out == 0
    units = Units(np.array([len(text) for text in texts], np.float64), list(range(len(texts))), None)
    costs = cost(run, ids, units, None, 3)
    gpt, tokenizer = gptlab.load(run.path)
    stream = [i for document in ids for i in [tokenizer.eot, *document.tolist()]]
    of = [number for number, document in enumerate(ids) for _ in range(len(document) + 1)]
    begins = [i for i, token in enumerate(stream) if token == tokenizer.eot]
    expected, counted = np.zeros(len(texts)), np.zeros(len(texts))
    start = 0
    for target in range(1, len(stream)):
        if target - 1 - start == 48 or (
            reading and target - 1 in begins and _window_ends(begins, len(stream), start) == target - 1
        ):
            start = target - 1
        first = max(start, max(b for b in begins if b < target)) if len(reading) > 1 else start
        with torch.no_grad():
            logits = gpt(torch.tensor([stream[first:target]]))[0, -1].double()
        expected[of[target - 1]] -= logits.log_softmax(-1)[stream[target]].item()
        counted[of[target - 1]] += 1
    np.testing.assert_allclose(costs.nats, expected, rtol=1e-5)
    np.testing.assert_array_equal(costs.tokens, counted)
    assert costs.protocol == {
        "block_size": 48,
        "stride": 48,
        "windows": "packed by documents" if reading else "one after another",
        "documents_read_alone": len(reading) > 1,
    }


def _window_ends(begins: list[int], n: int, start: int) -> int:
    """Where a packed window of 48 that begins at `start` ends: behind the last document that fits, or after 48."""
    whole = [b for b in [*begins, n] if start < b <= start + 48]
    return whole[-1] if whole else start + 48


def test_units_of_few_documents_are_stretches() -> None:
    units = Units.of([1000, 100, 520])
    assert units.stretch == 256 and str(units) == "6 stretches of 256 bytes"
    assert units.sizes.tolist() == [256, 256, 488, 100, 256, 264] and units.first == [0, 3, 4]
    assert Units.of([512_000]).stretch == 2560 and str(Units.of([300, 200])) == "2 documents"
    many = Units.of(list(range(1, 31)))
    assert many.stretch is None and many.sizes.tolist() == list(range(1, 31)) and str(many) == "30 documents"


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_stretches_share_the_cost_of_their_documents(tiny: Tiny, tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "long").mkdir()
    for i in range(9):
        (tmp_path / f"long/{i}.txt").write_text(f"number {i} saw the red bird fly over a hill. " * (9 + 9 * i))
    more = ["tokenizer=bpe", "tokenizer.vocab_size=300"] if tokenizer == "bpe" else []
    run = a_run(tiny, tmp_path, "a", "data.files=[long/*]", "data.val_fraction=0.5", *more)
    texts, (ids,), _ = common_documents([run], None)
    lengths = [len(text) for text in texts]
    documents = Units(np.array(lengths, np.float64), list(range(len(texts))), None)
    units = Units.of(lengths)
    assert units.stretch == 256 and len(units.sizes) > len(texts) + 5
    whole, parts = (cost(run, ids, each, None, 4) for each in (documents, units))
    bounds = [*units.first, len(units.sizes)]
    for number in range(len(texts)):
        part = slice(bounds[number], bounds[number + 1])
        assert parts.nats[part].sum() == pytest.approx(whole.nats[number])
        assert units.sizes[part].sum() == lengths[number]
    if tokenizer == "byte":  # a token a byte: a stretch has as many, the last one the end of its document too
        ends = np.isin(np.arange(len(units.sizes)), np.array(bounds[1:-1]) - 1)
        np.testing.assert_array_equal(parts.tokens, units.sizes + ends)


def test_documents_that_all_runs_hold_out(tiny: Tiny, texts: str, tmp_path: Path) -> None:
    a = a_run(tiny, tmp_path, "a")
    more = a_run(tiny, tmp_path, "b", "tokenizer=bpe", "tokenizer.vocab_size=300", "data.val_fraction=0.5")
    first, second = (common_documents([run], None)[0] for run in (a, more))
    both, ids, left_out = common_documents([a, more], None)
    assert both == [text for text in first if text in set(second)] and 0 < len(both)
    assert left_out == len(first) - len(both)
    for run, own in zip((a, more), ids, strict=True):
        tokenizer = gptlab.load(run.path)[1]
        assert [tokenizer.decode_bytes(each.tolist()) for each in own] == both


def test_a_run_without_held_out_text_reads_the_other_s(tiny: Tiny, tmp_path: Path) -> None:
    a, b = a_run(tiny, tmp_path, "a"), a_run(tiny, tmp_path, "b", "tokenizer=char")
    (b.path / "held_out/val.bin").unlink()
    tokenizer = gptlab.load(b.path)[1]
    known, ids, left_out = common_documents([a, b], None)
    spelled = [text for text in common_documents([a], None)[0] if set(text.decode()) <= set(tokenizer.characters)]
    assert known == spelled and left_out == len(common_documents([a], None)[0]) - len(known)
    assert [tokenizer.decode_bytes(each.tolist()) for each in ids[1]] == known
    (a.path / "held_out/val.bin").unlink()
    with pytest.raises(UserError, match="^data=null: none of the runs has held-out text of its own; say which: "):
        common_documents([a, b], None)


def test_other_text(tiny: Tiny, tmp_path: Path) -> None:
    a, b = a_run(tiny, tmp_path, "a"), a_run(tiny, tmp_path, "b", "tokenizer=bpe", "tokenizer.vocab_size=300")
    for i in range(3):
        (tmp_path / f"new-{i}.txt").write_text(f"some red bird ran over the hill {i} " * 9)
    config = compose("evaluate", ["data=text", "data.files=[new-*.txt]", "data.val_fraction=1"])
    found, ids, left_out = common_documents([a, b], config.data)
    assert [text.decode() for text in found] == [(tmp_path / f"new-{i}.txt").read_text() for i in range(3)]
    assert left_out == 0 and len(ids[0][0]) > len(ids[1][0])


def test_texts_that_have_nothing_in_common(tiny: Tiny, tmp_path: Path) -> None:
    a = a_run(tiny, tmp_path, "a")
    (tmp_path / "b").mkdir()
    for i in range(9):
        (tmp_path / f"b/{i}.txt").write_text(f"two green dogs fly home {i} " * 20)
    b = a_run(tiny, tmp_path, "b-run", "data.files=[b/*.txt]")
    with pytest.raises(UserError, match="^data=null: no document is held out by all of the runs; say which text"):
        common_documents([a, b], None)
