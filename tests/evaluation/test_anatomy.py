"""The loss taken apart: against a loop over tokens, as sums of the whole, and in windows beyond the context."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptlab.commands.evaluate import evaluate
from gptlab.config import compose
from gptlab.data.batches.sliding import SlidingWindows
from gptlab.data.batches.windows import packed, whole
from gptlab.errors import UserError
from gptlab.evaluation.anatomy import PARTITIONS, Targets, doublings, partition, read_targets, units_of, upper_bounds
from gptlab.evaluation.held_out import HeldOutData
from gptlab.evaluation.statistics import ratio_intervals
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.base import Reading
from gptlab.tasks.causal_lm import CausalLM
from gptlab.training.run import train
from tests.conftest import tiny_overrides, working_in, write_texts
from tests.data.batches.test_sliding import stream

T, EOT = 8, 19


def model() -> GPT:
    gpt = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=T, vocab_size=20, positions="alibi")).eval()
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return gpt


def text() -> list[int]:
    draw = np.random.default_rng(3)
    return [each for n in (3, 9, 1, 30, 17, 2) for each in (EOT, *draw.integers(0, 12, n).tolist())]


@torch.no_grad()
@pytest.mark.parametrize("way", ["whole", "packed", "alone", "sliding"])
def test_each_token_against_its_definition(way: str, tmp_path: Path) -> None:
    """What is read before a token, how often it stands there and anywhere, and where in its document it is."""
    gpt, ids = model(), text()
    tokens = stream(tmp_path / "x.bin", ids)
    windows = {
        "whole": lambda: whole(tokens, T),
        "sliding": lambda: SlidingWindows(tokens, T, 3, EOT),
    }.get(way, lambda: packed(tokens, T, EOT))()
    reading = Reading(EOT if way == "alone" else None)
    found = read_targets(gpt, CausalLM(), HeldOutData(windows, None, None, reading, {}, ""), EOT, 3)
    at, covered = 0, []
    for begin, stop in zip(windows.starts, windows.stops, strict=True):
        for t in range(begin + 1, min(stop, len(ids) - 1) + 1):
            if t in covered:
                continue  # sliding: read again
            covered.append(t)
            start = max(i for i in range(t) if ids[i] == EOT)  # of the document
            first = max(begin, start) if way == "alone" else begin
            read = ids[first:t]
            logits = gpt(torch.tensor([read]))[0, -1].double()
            assert found.nats[at] == pytest.approx(-logits.log_softmax(-1)[ids[t]].item(), abs=1e-5)
            assert found.position[at] == len(read)
            assert found.frequency[at] == ids.count(ids[t])
            assert found.in_context[at] == (ids[t] in read)
            assert found.in_document[at] == (ids[t] in ids[start + 1 : t])
            assert (found.place[at], found.document[at]) == (t - start, ids[: start + 1].count(EOT) - 1)
            at += 1
    assert at == len(ids) - 1 == len(found.nats)


def test_classes_add_up_to_the_whole_and_are_what_they_say(tmp_path: Path) -> None:
    found = read_targets(
        model(),
        CausalLM(),
        HeldOutData(whole(stream(tmp_path / "x.bin", text()), T), None, None, Reading(), {}, ""),
        EOT,
        4,
    )
    units, what = units_of(found)
    assert "stretches" in what
    for name in PARTITIONS:
        classes = partition(found, name, units, T)
        assert sum(each["tokens"] for each in classes) == len(found.nats)
        assert math.fsum(each["nats"] for each in classes) == pytest.approx(found.nats.sum(), rel=1e-14)
        for each in classes:
            values = getattr(found, name)
            low, high = (each["low"], each["high"]) if "low" in each else (int(each["class"] == "repeated"),) * 2
            own = found.nats[(values >= low) & (values <= high)]
            assert (each["tokens"], each["loss"]) == (len(own), pytest.approx(own.mean()))


@pytest.mark.parametrize(
    ("name", "most", "context", "bounds"),
    [
        ("position", 8, 8, [1, 2, 4, 8]),
        ("position", 100, 100, [1, 3, 6, 12, 25, 50, 100]),
        ("position", 40, 10, [1, 2, 5, 10, 20, 40]),
        ("position", 5, 100, [1, 3, 6]),
        ("place", 9, 8, [1, 2, 4, 8, 16]),
        ("frequency", 20, 8, [1, 3, 15, 63]),
        ("frequency", 1, 8, [1]),
    ],
)
def test_bounds(name: str, most: int, context: int, bounds: list[int]) -> None:
    assert upper_bounds(name, most, context) == bounds


def test_lengths_double() -> None:
    assert [doublings(n) for n in (1, 2, 3, 4, 6)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6]]


def test_documents_are_the_units_where_there_are_enough() -> None:
    number = np.repeat(np.arange(30), 7)
    targets = Targets(*[np.ones(len(number))] * 6, document=number)  # type: ignore[arg-type]
    units, what = units_of(targets)
    assert what == "30 documents" and np.array_equal(units, number)


def test_intervals_hold_the_true_ratio() -> None:
    """In worlds of 40 documents of unequal length, two of whose classes are rare."""
    draw, held = np.random.default_rng(0), np.zeros(3)
    share, true = np.array([0.9, 0.09, 0.01]), np.array([2.0, 4.0, 8.0])
    for world in range(120):
        sizes = draw.poisson(share * draw.lognormal(5, 0.7, (40, 1))).astype(float)
        sums = sizes * true * draw.lognormal(-0.02, 0.2, (40, 1))
        for k, interval in enumerate(ratio_intervals(sums, sizes, 400, world)):
            held[k] += interval is not None and interval[0] <= true[k] <= interval[1]
    assert (held / 120 > 0.88).all()
    assert ratio_intervals(np.array([[1.0, 0], [2, 3]]), np.array([[1.0, 0], [1, 1]]), 200, 0)[1] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three kinds of positions."""
    folder = tmp_path_factory.mktemp("anatomy")
    with working_in(folder):
        for name in ("rope", "alibi", "learned"):
            texts = write_texts(folder / name)
            train(compose("train", [*tiny_overrides(texts), f"model.positions={name}", f"run_dir=runs/{name}"]))
    return folder / "runs"


@pytest.fixture(autouse=True)
def _there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "folder" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("folder"))


def ask(*overrides: str) -> dict[str, Any]:
    return evaluate(compose("evaluate", list(overrides)))


@pytest.mark.slow
def test_the_whole_is_what_evaluate_says_at_each_length(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every length predicts the same tokens, and the classes of each add up to its loss."""
    found = ask("run=rope", "anatomy=true", "length=4")
    plain = [ask("run=rope", f"block_size={size}") for size in (32, 64, 128)]
    assert [each["block_size"] for each in found["lengths"]] == [32, 64, 128]
    for each, whole_loss in zip(found["lengths"], plain, strict=True):
        assert each["loss"] == pytest.approx(whole_loss["loss"], rel=1e-12)
        assert each["tokens"] == sum(part["tokens"] for part in each["position"]) == whole_loss["tokens"]
        assert sum(part["nats"] for part in each["position"]) == pytest.approx(each["nats"], rel=1e-12)
        if each["difference"]:
            gap = each["difference"]
            assert gap["value"] == pytest.approx(whole_loss["loss"] - plain[0]["loss"], rel=1e-9)
            assert gap["low"] <= gap["value"] <= gap["high"]
    assert found["loss"] == found["lengths"][0]["loss"] and found["lengths"][0]["position"] == found["position"]
    assert found["lengths"][-1]["position"][-1]["class"] == "65 to 128"
    assert found["protocol"]["block_size"] == 32
    kept = json.loads(Path("rope/anatomy.json").read_text())
    assert {**kept, "page": found["page"]} == json.loads(json.dumps(found))
    page = Path(found["page"]).read_text()
    assert "default-src 'none'" in page and "http:" not in page and "https:" not in page and page.count("<img") == 7
    said = capsys.readouterr().out
    assert "frequency of the token" in said and "1,0" in said and "repeated" in said


@pytest.mark.slow
def test_learned_positions_end(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which is said in the row of a longer window; the other runs beside it go on."""
    both = ask("run=[learned,alibi]", "anatomy=true", "length=2", "data=text", f"data.files=[{folder.parent}/rope/*]")
    learned, alibi = both["runs"]
    assert [each["loss"] is None for each in learned["lengths"]] == [False, True]
    assert learned["lengths"][1]["why"] == "the model has learned 32 positions"
    assert all(each["loss"] for each in alibi["lengths"])
    said = capsys.readouterr().out
    assert "impossible" in said and "not beyond: the model has learned 32 positions" in said
    assert "impossible" in Path(both["page"]).read_text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run=[rope,rope]"], "is named twice"),
        (["run=rope", "block_size=4096"], "its .* tokens are less than one window"),
    ],
)
def test_what_is_refused(overrides: list[str], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        ask("anatomy=true", *overrides)
