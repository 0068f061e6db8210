"""Text of which only a part counts in the loss, from its source to the loss."""

import csv
import dataclasses
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data.batches.batch import IGNORE
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.windows import dense, packed, whole
from gptlab.data.text.readers import Chunk
from gptlab.data.text.sources import Mixture, TextData, TokenFiles
from gptlab.data.tokens import encode as encoding
from gptlab.data.tokens import shards
from gptlab.data.tokens.encode import encode, jobs, write_sections
from gptlab.data.tokens.prepare import Corpus, prepare
from gptlab.data.tokens.shards import Shard, TokenStream, held_out_stream
from gptlab.errors import UserError
from gptlab.evaluation.perplexity import evaluate
from gptlab.model.gpt import GPT
from gptlab.optim.schedules import Constant
from gptlab.registry import option
from gptlab.runs.run_dir import RunDir
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte
from gptlab.training.run import train
from tests.training.test_resume import Tiny

FEW = settings(deadline=None, max_examples=100)
PIECES = st.lists(
    st.tuples(st.text("ab c.", min_size=1, max_size=9), st.booleans(), st.booleans()), min_size=1, max_size=9
)


@option("data", "chats")
@dataclass
class Chats(TextData):
    """Questions, which are read, and answers, which are learned."""

    pairs: list[tuple[str, str]] = field(default_factory=list)
    masked: bool = True

    def chunks(self) -> Iterator[Chunk]:
        for question, answer in self.pairs:
            yield Chunk(question, begins=True, counts=not self.masked)
            yield Chunk(answer, begins=False)

    def version(self) -> Any:
        return self.pairs, self.masked


def pairs(n: int = 40) -> list[tuple[str, str]]:
    """Half of the bytes are of answers."""
    return [(f"question {i:02d}?", f"answer {i:02d} ok") for i in range(n)]


@pytest.fixture
def corpus() -> Corpus:
    return prepare(Chats(pairs=pairs()), Byte())


def documents(pieces: list[tuple[str, bool, bool]]) -> list[list[tuple[str, bool]]]:
    """Return the documents of pieces (text, begins, counts), with neighbours of one kind joined."""
    found: list[list[tuple[str, bool]]] = []
    for i, (text, begins, counts) in enumerate(pieces):
        if begins or i == 0:
            found.append([(text, counts)])
        elif found[-1][-1][1] == counts:
            found[-1][-1] = (found[-1][-1][0] + text, counts)
        else:
            found[-1].append((text, counts))
    return found


@pytest.mark.slow
@FEW
@given(PIECES, st.integers(1, 20), st.sampled_from([Byte(), BPE(vocab_size=260)]))
def test_the_mask_is_of_the_tokens_of_each_piece(
    pieces: list[tuple[str, bool, bool]], job: int, option: Byte | BPE
) -> None:
    tokenizer = option.build(["ab ab ab abc. ab"])
    ids: list[int] = []
    mask: list[bool] = []
    size, before = 0, True
    for document in documents(pieces):
        ids.append(tokenizer.eot)
        mask.append(before)
        for text, counts in document:
            ids += tokenizer.encode(text)
            mask += [counts] * len(tokenizer.encode(text))
            size += len(text) * counts
            before = counts
    chunks = [("train", Chunk(text, begins or i == 0, counts)) for i, (text, begins, counts) in enumerate(pieces)]
    with mock.patch.object(encoding, "JOB", job), tempfile.TemporaryDirectory() as folder:
        done = [encode(each, tokenizer) for each in jobs(chunks, tokenizer)]
        assert sum(each.target_bytes for each in done) == size
        saved = (tokenizer, Path(folder) / "tokenizer")
        records = write_sections(Path(folder), jobs(chunks, tokenizer), saved, None, lambda size: None, 15)
        found, counted = [], []
        for record in records:
            shard = record["train"]
            path = Path(folder) / shard["file"]
            found += np.fromfile(path, "<u2").tolist()
            if "mask_sha256" in shard:
                content = path.with_suffix(".mask.bin").read_bytes()
                assert hashlib.sha256(content).hexdigest() == shard["mask_sha256"]
                assert shard["targets"] == sum(content) < shard["tokens"] or all(content)
                counted += list(content)
            else:
                assert not path.with_suffix(".mask.bin").exists()
                counted += [1] * shard["tokens"]
    assert found == ids
    assert counted == mask


def test_a_corpus_says_what_counts(corpus: Corpus) -> None:
    assert all(stream.has_mask for stream in [*corpus.train, corpus.val])
    for part, stream in {"train": corpus.train[0], "val": corpus.val}.items():
        counts, ids = corpus.manifest[part], stream[:]
        mask = stream.mask(slice(None))
        assert mask is not None and len(mask) == len(ids)
        assert counts["targets"] == mask.sum() == counts["documents"] * (len("answer 00 ok") + 1)
        assert counts["target_bytes"] == counts["documents"] * len("answer 00 ok")
        assert counts["bytes"] == counts["documents"] * len("question 00?answer 00 ok")
        spelled = corpus.tokenizer.decode(ids[(mask == 1) & (ids != corpus.tokenizer.eot)].tolist())
        assert spelled.count("answer") == counts["documents"] and "question" not in spelled
    assert corpus.val_bytes == corpus.manifest["val"]["target_bytes"]
    assert corpus.bytes_per_target == pytest.approx(12 / 13)


def test_unmasked_text_is_as_if_there_were_no_masks(corpus: Corpus) -> None:
    plain = prepare(Chats(pairs=pairs(), masked=False), Byte())
    assert plain.manifest["sha256"] != corpus.manifest["sha256"]
    assert plain.folders != corpus.folders
    assert not list(plain.folders[0].glob("*.mask.bin")) and not plain.val.has_mask
    assert set(plain.manifest["train"]) == {"documents", "bytes", "characters", "tokens", "shards"}
    assert plain.val_bytes == plain.manifest["val"]["bytes"]
    ids = [np.concatenate([each.train[0][:], each.val[:]]) for each in (plain, corpus)]
    assert sorted(ids[0]) == sorted(ids[1])


def test_a_prompt_that_all_share_does_not_put_all_on_one_side() -> None:
    found = prepare(Chats(pairs=[("Say:", answer) for _, answer in pairs()]), Byte())
    assert found.manifest["train"]["documents"] > 20 and found.manifest["val"]["documents"] > 0
    (one,) = {len(text) for _, text in pairs()}
    assert found.manifest["val"]["target_bytes"] == found.manifest["val"]["documents"] * one


def test_the_hash_knows_what_counts() -> None:
    def sha256(*chunks: Chunk) -> str:
        from gptlab.data.text.splits import survey

        return survey(chunks, 1.0).sha256

    document = [Chunk("ab", True, False), Chunk("cd", False), Chunk("ef", True)]
    other = [Chunk("a", True, False), Chunk("bcd", False), Chunk("ef", True)]
    as_one = [Chunk("abcd", True), Chunk("ef", True)]
    pieces = [
        Chunk("a", True, False),
        Chunk("b", False, False),
        Chunk("cd", False),
        Chunk("e", True),
        Chunk("f", False),
    ]
    assert len({sha256(*document), sha256(*other), sha256(*as_one)}) == 3
    assert sha256(*pieces) == sha256(*document)


def stream(folder: str, pieces: list[list[tuple[int, bool]]], masked: list[bool]) -> tuple[TokenStream, list[bool]]:
    found, counts = [], list[bool]()
    for i, (piece, has) in enumerate(zip(pieces, masked, strict=True)):
        path = Path(folder) / f"{i}.bin"
        np.array([token for token, _ in piece], np.uint16).tofile(path)
        np.array([count for _, count in piece], np.uint8).tofile(path.with_suffix(".mask.bin"))
        found.append(Shard(path, "uint16", len(piece), mask=path.with_suffix(".mask.bin") if has else None))
        counts += [count or not has for _, count in piece]
    return TokenStream(found), counts


TOKENS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=20)


@FEW
@given(st.data(), st.lists(TOKENS, min_size=1, max_size=4), st.integers(1, 7), st.integers(1, 5))
def test_a_target_that_does_not_count_is_ignored(
    data: st.DataObject, pieces: list[list[tuple[int, bool]]], size: int, block: int
) -> None:
    has = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(shards, "BLOCK", block):
        tokens, counts = stream(folder, pieces, has)
        plain = TokenStream([dataclasses.replace(shard, mask=None) for shard in tokens.shards])
        n = len(counts)
        assert tokens.has_mask == any(has)
        if any(has):
            assert tokens.mask(slice(1, n)).astype(bool).tolist() == counts[1:]
            before = tokens.counted_before(np.arange(n + 1)).tolist()
            assert before == [0, *itertools.accumulate(map(int, counts))]
        kinds = [(dense, size), (dense, size, 2), (whole, size), (packed, size, 0)]
        for make, *how in kinds:
            windows, bare = make(tokens, *how), make(plain, *how)  # type: ignore[operator]
            if not len(windows):
                continue
            every = range(len(windows))
            (x, y, *_), (bare_x, bare_y, *_) = windows.__getitems__(every), bare.__getitems__(every)
            assert torch.equal(x, bare_x)
            for i, start in enumerate(windows.starts):
                for t in range(size):
                    at = int(start) + t + 1
                    target = bare_y[i, t] if bare_y[i, t] == IGNORE or counts[at] else IGNORE
                    assert y[i, t] == target
            assert windows.targets.tolist() == (y != IGNORE).sum(1).tolist()


def test_a_mixture_of_masked_and_plain_text() -> None:
    parts = {"a": Chats(pairs=pairs()), "b": Chats(pairs=pairs(), masked=False)}
    found = prepare(Mixture(parts=parts), Byte())
    a, b = (source["val"] for source in found.manifest["sources"].values())
    assert found.val.has_mask and [stream.has_mask for stream in found.train] == [True, False]
    assert found.manifest["val"]["targets"] == a["targets"] + b["tokens"]
    assert found.val_bytes == a["target_bytes"] + b["bytes"]
    assert found.bytes_per_target == pytest.approx((12 / 13 + 24 / 25) / 2)


def test_masks_of_tokens_that_exist(corpus: Corpus, tmp_path: Path) -> None:
    """A folder of ours, and .bin files with masks beside them."""
    again = prepare(TokenFiles(folder=str(corpus.folders[0])), Byte())
    assert again.manifest == corpus.manifest
    assert again.val.mask(slice(None)).tolist() == corpus.val.mask(slice(None)).tolist()
    (tmp_path / "t.bin").write_bytes(corpus.train[0][:].tobytes())
    mask = corpus.train[0].mask(slice(None))
    mask.tofile(tmp_path / "t.mask.bin")
    found = prepare(TokenFiles(train=["*.bin"], val_fraction=0.25), Byte())
    both = [found.train[0].mask(slice(None)), found.val.mask(slice(None))]
    assert np.concatenate(both).tolist() == mask.tolist()
    assert found.manifest["val"]["targets"] == both[1].sum()
    ids = found.val[:][both[1] == 1]
    assert found.val_bytes == (ids != found.tokenizer.eot).sum()
    before = found.manifest["sha256"]
    (1 - mask).tofile(tmp_path / "t.mask.bin")
    assert prepare(TokenFiles(train=["*.bin"], val_fraction=0.25), Byte()).manifest["sha256"] != before
    (tmp_path / "t.mask.bin").write_bytes(b"\x01")
    with pytest.raises(UserError, match=r"^data=t\.mask\.bin: has 1 bytes instead of"):
        prepare(TokenFiles(train=["t.bin"]), Byte())


def test_a_changed_mask_is_found_out(corpus: Corpus) -> None:
    path = corpus.folders[0] / "train-00000.mask.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^data={path}: its SHA-256 is .+ and not the manifest's"):
        prepare(Chats(pairs=pairs()), Byte())
    path.unlink()
    with pytest.raises(UserError, match=rf"^data={path}: no such file"):
        prepare(Chats(pairs=pairs()), Byte())


@pytest.mark.parametrize("masked", [True, False])
def test_held_out_text_is_saved_with_its_mask(masked: bool, tmp_path: Path) -> None:
    corpus = prepare(Chats(pairs=pairs(), masked=masked), Byte())
    corpus.save_held_out(tmp_path / "held_out")
    found, size = held_out_stream(tmp_path / "held_out")
    assert found[:].tolist() == corpus.val[:].tolist() and size == corpus.val_bytes
    names = {path.name for path in (tmp_path / "held_out").iterdir()}
    assert names == {"val.bin", "manifest.json", *(["val.mask.bin"] if masked else [])}
    if not masked:
        assert found.mask(slice(None)) is None
        return
    assert found.mask(slice(None)).tolist() == corpus.val.mask(slice(None)).tolist()
    (tmp_path / "held_out/val.mask.bin").unlink()
    with pytest.raises(UserError, match=r"val\.mask\.bin: no such file"):
        held_out_stream(tmp_path / "held_out")


def test_text_of_which_nothing_counts() -> None:
    @dataclass
    class Silent(Chats):
        def chunks(self) -> Iterator[Chunk]:
            return (chunk._replace(counts=False) for chunk in super().chunks())

    config = Silent(pairs=pairs())
    with pytest.raises(UserError, match=r"^data=silent: no token of the .+ split counts in the loss; "):
        TextDataModule(prepare(config, Byte()), config, 8, 0)


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_the_loss_is_the_mean_over_targets(packing: str, tiny: Tiny, tmp_path: Path) -> None:
    """By hand: twelve bytes of each answer and the separator behind it, and nothing of the questions."""
    data = Chats(pairs=pairs(), packing=packing, batch_size=4, micro_batch_size=2)
    config = tiny("logger.every_n_steps=1", "budget.steps=1", "model.block_size=30", "trainer.val_every_n_steps=1")
    train(dataclasses.replace(config, data=data))
    module = TextDataModule(prepare(data, Byte()), data, 30, config.seed)
    x, y, *_ = module.rows(module.windows_of(1))
    if packing == "documents":  # windows of one document each; the last has no separator behind it
        documents = len(module.train[0])
        assert module.train[0].targets.sum() == documents * 13 - 1
        assert module.tokens_per_epoch == len(module.train[0].tokens)  # questions are read too
        assert (y != IGNORE).sum(1).tolist() == [13 if i != documents - 1 else 12 for _, i in module.windows_of(1)]
    L.seed_everything(config.seed, verbose=False)
    gpt = GPT(dataclasses.replace(config.model, vocab_size=257)).eval()
    probs = gpt(x).double().softmax(-1).detach().numpy()
    costs = [-np.log(probs[b, t, y[b, t]]) for b, t in np.ndindex(*y.shape) if y[b, t] != IGNORE]
    with (tmp_path / "run/metrics.csv").open() as file:
        (loss,) = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert 0.3 < len(costs) / (x != 0).sum() < 0.7
    assert loss == pytest.approx(np.mean(costs), abs=1e-5)


def test_accumulation_divides_by_the_targets_of_the_whole_step(tiny: Tiny, tmp_path: Path) -> None:
    """Three micro-batches with different numbers of targets: loss, gradient and held-out loss in float64, by hand."""
    texts = [(f"question {i:02d}" + "?" * (i % 9), f"answer {i:02d}" + "!" * (i % 7)) for i in range(60)]
    data = Chats(pairs=texts, batch_size=6, micro_batch_size=2)
    config = tiny("logger.every_n_steps=1", "budget.steps=1", "optimizer=sgd", "optimizer.momentum=0")
    config.trainer.gradient_clip_val, config.schedule = 0.0, Constant(warmup_steps=0)
    train(dataclasses.replace(config, data=data))
    module = TextDataModule(prepare(data, Byte()), data, 32, config.seed)
    x, y, *_ = module.rows(module.windows_of(1))
    counts = (y != IGNORE).view(3, -1).sum(1).tolist()
    assert len(set(counts)) == 3 and 0.3 < sum(counts) / y.numel() < 0.7  # about half of all positions

    def mean_loss(gpt: GPT, x: torch.Tensor, y: torch.Tensor) -> float:
        logits = gpt(x).detach().numpy()
        nats = (
            np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y.clamp(min=0).numpy()[..., None], -1)[..., 0]
        )
        return float(nats[y.numpy() != IGNORE].mean())

    L.seed_everything(config.seed, verbose=False)
    gpt = GPT(dataclasses.replace(config.model, vocab_size=257)).double()
    expected = mean_loss(gpt, x, y)
    with (tmp_path / "run/metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    (loss,) = [float(row["train/loss"]) for row in logged if row["train/loss"]]
    assert loss == pytest.approx(expected, abs=2e-6) and expected > 5  # not half of it

    torch.nn.functional.cross_entropy(gpt(x).flatten(0, 1), y.flatten(), ignore_index=IGNORE).backward()
    trained = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    with torch.no_grad():
        for name, p in gpt.named_parameters():
            assert p.grad is not None
            p -= config.optimizer.lr * p.grad
            torch.testing.assert_close(trained[f"gpt.{name}"].double(), p, atol=2e-7, rtol=0)
    val = whole(module.val.tokens, 32)
    x, y, *_ = val.__getitems__(range(len(val)))
    (loss,) = [float(row["val/loss"]) for row in logged if row["val/loss"]]
    assert loss == pytest.approx(mean_loss(gpt, x, y), abs=2e-6)
    assert evaluate(RunDir(tmp_path / "run"))["loss"] == pytest.approx(mean_loss(gpt, x, y), abs=2e-6)
