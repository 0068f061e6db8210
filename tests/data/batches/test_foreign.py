"""A LightningDataModule of a user's own, as the data of a run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from gptlab.batch_sizes import BatchSizes
from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.build import build_data
from gptlab.data.batches.datamodule import TextDataModule
from gptlab.data.batches.foreign import ForeignDataModule
from gptlab.data.batches.rows import as_rows
from gptlab.data.config import BatchConfig, ForeignData
from gptlab.data.text.sources import Files
from gptlab.errors import UserError
from gptlab.tasks.causal_lm import CausalLM
from gptlab.tokenizers.bpe import BPE
from gptlab.tokenizers.byte import Byte

T = 6
ROWS = 23  # of an epoch; batches of 5 rows, steps of 8


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Row i with draws of every generator; some of its targets do not count."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        draws = [int(torch.randint(200, ())), np.random.randint(200), random.randrange(200)]
        x = torch.tensor([i, *draws, 0, 0])
        return x, torch.where(torch.arange(T) <= i % T, x, IGNORE)


class Own(L.LightningDataModule):
    prepared = 0

    def prepare_data(self) -> None:
        self.prepared += 1

    def setup(self, stage: str) -> None:
        self.rows = Noisy()

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=5, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=4)


@dataclass
class Mine(ForeignData):
    factor: float = 1.0

    def build(self, tokenizer: Any, block_size: int, seed: int) -> L.LightningDataModule:
        return Own()


def data(
    rank: int = 0, world_size: int = 1, first: int = 0, micro: int = 2, steps: int = 9, seed: int = 1, of: Any = Own
) -> ForeignDataModule:
    found = ForeignDataModule(of(), Mine(batch_size=8), 10, seed, 257)
    found.steps, found.micro_batch_size = steps, micro
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    found.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, global_step=first, strategy=cpu)
    return found


def equal(a: list[Batch], b: list[Batch]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(p.x, q.x) and torch.equal(p.y, q.y) and p[2:] == q[2:] for p, q in pairs)


def test_every_row_once_an_epoch_in_an_order_of_its_own() -> None:
    module = data(steps=ROWS)  # eight epochs
    loader = module.train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == ROWS * 4
    rows = torch.cat([batch.x for batch in batches])[:, 0].reshape(8, ROWS)
    assert rows.sort(1).values.tolist() == [list(range(ROWS))] * 8
    assert len({tuple(epoch) for epoch in rows.tolist()}) == 8
    assert not equal(batches, list(data(steps=ROWS, seed=2).train_dataloader()))
    assert module.seconds_waited > 0


def test_every_micro_batch_knows_the_size_of_its_step() -> None:
    batches = list(data().train_dataloader())
    for step in range(9):
        parts = batches[4 * step : 4 * step + 4]
        count = sum(int((batch.y != IGNORE).sum()) for batch in parts)
        assert [batch.step_targets for batch in parts] == [count] * 4
        rows = [row for batch in parts for row in (batch.y != IGNORE).tolist()]
        read = sum(max((t + 1 for t, counts in enumerate(row) if counts), default=0) for row in rows)
        assert [batch.step_tokens for batch in parts] == [read] * 4


@pytest.mark.parametrize("first", range(10))
def test_a_run_that_is_resumed_has_the_batches_of_one_never_stopped(first: int) -> None:
    """Whatever was drawn in between: training has the global generators for itself."""
    expected = []
    for batch in data().train_dataloader():
        expected.append(batch)
        torch.manual_seed(len(expected) // 2), torch.rand(3), np.random.rand(), random.random()
    torch.manual_seed(first)
    assert equal(list(data(first=first).train_dataloader()), expected[4 * first :])


def test_reading_draws_nothing_from_the_generators_of_training() -> None:
    def draws(read: bool) -> list[float]:
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        batches = iter(data().train_dataloader())
        found = []
        for _ in range(9):
            if read:
                next(batches)
            found += [torch.rand(()).item(), np.random.rand(), random.random()]
        return found

    assert draws(True) == draws(False)


@pytest.mark.parametrize(("world_size", "micro"), [(2, 2), (2, 1), (4, 2), (2, 4)])
def test_ranks_share_the_steps_of_one(world_size: int, micro: int) -> None:
    (alone,) = (list(data(micro=8).train_dataloader()),)
    ranks = [list(data(rank, world_size, micro=micro).train_dataloader()) for rank in range(world_size)]
    each = 8 // (micro * world_size)
    for step, whole in enumerate(alone):
        parts = [rank[each * step + i] for i in range(each) for rank in ranks]
        assert torch.equal(torch.cat([part.x for part in parts]), whole.x)
        assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
        assert {part.step_targets for part in parts} == {whole.step_targets}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_held_out_row_once_in_equally_many_batches(world_size: int) -> None:
    ranks = [list(data(rank, world_size, micro=3).val_dataloader()) for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    batches = [batch for rank in ranks for batch in rank]
    assert {tuple(batch.x.shape) for batch in batches} == {(3, 10)}
    assert all(batch[2:] == (None, None) for batch in batches)
    counted = [row for batch in batches for row in batch.x[(batch.y != IGNORE).any(1)][:, 0].tolist()]
    assert sorted(counted) == list(range(ROWS))
    again = list(data(0, world_size, micro=3).val_dataloader())
    assert equal(again, ranks[0])  # with the same draws


def test_steps_that_grow_take_the_same_rows() -> None:
    """Steps of 8, 8, 12 and 12 rows, resumed before the third; two rows a micro-batch."""
    grown = []
    for first in (0, 2):
        module = data(first=first, steps=4)
        module.batch_sizes = BatchSizes(8, [[10, 12]])
        loader = module.train_dataloader()
        grown.append(list(loader))
        assert len(loader) == len(grown[-1])
    every = torch.cat([batch.x[:, :T] for batch in data(steps=5).train_dataloader()])  # of 8 rows each
    assert torch.equal(torch.cat([batch.x[:, :T] for batch in grown[0]]), every)
    assert equal(grown[0][8:], grown[1]) and len(grown[1]) == 12
    for step in (grown[1][:6], grown[1][6:]):
        assert {batch.step_targets for batch in step} == {sum(int((batch.y != IGNORE).sum()) for batch in step)}


def test_what_a_budget_counts_by() -> None:
    module = data()
    assert module.tokens_per_step == next(iter(data().train_dataloader())).step_tokens
    assert module.tokens_per_epoch == round(module.tokens_per_step / 8 * ROWS)
    assert isinstance(module.tokens_per_step, int)

    class Endless(Own):
        def train_dataloader(self) -> Any:
            return (batch for batch in DataLoader(self.rows, batch_size=5))

    assert data(of=Endless).tokens_per_epoch is None
    module.setup("fit")
    assert module.module.prepared == 1  # type: ignore[attr-defined]


def test_the_hash_is_of_what_the_data_are() -> None:
    @dataclass
    class Newer(Mine):
        def version(self) -> Any:
            return 2

    assert Mine().sha256() == Mine(batch_size=64, micro_batch_size=2, other_data_ok=True).sha256()
    assert len({Mine().sha256(), Mine(factor=2.0).sha256(), Newer().sha256()}) == 3
    state = data().state_dict()
    data().load_state_dict(state)
    with pytest.raises(UserError, match=r"^data=.+: the checkpoint was trained on other data"):
        ForeignDataModule(Own(), Mine(factor=2.0), 10, 1, 257).load_state_dict(state)
    ForeignDataModule(Own(), Mine(factor=2.0, other_data_ok=True), 10, 1, 257).load_state_dict(state)


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])


def test_batches_of_each_kind() -> None:
    def rows(batch: Any) -> tuple[list[list[int]], list[list[int]]]:
        x, y = as_rows(batch, "Own", 4, 10)
        return x.tolist(), y.tolist()

    y = torch.tensor([[2, 3, 4, 5], [6, IGNORE, IGNORE, IGNORE]])
    assert rows((IDS, y)) == rows([IDS.int(), y]) == rows(Batch(IDS, y, 9)) == (IDS.tolist(), y.tolist())
    shifted = [[1, 2, 3], [5, 6, 0]], [[2, 3, 4], [6, IGNORE, IGNORE]]
    labels = torch.where(IDS > 0, IDS, IGNORE)
    assert rows({"input_ids": IDS, "labels": labels}) == shifted
    assert rows({"input_ids": IDS, "labels": IDS, "attention_mask": (IDS > 0).long()}) == shifted


REFUSED = [
    (IDS, "its batches are Tensor; give pairs"),
    ((IDS, IDS, IDS), "its batches are tuple; give pairs"),
    ({"input_ids": IDS}, "its batches are dict of input_ids; give pairs"),
    ({"input_ids": IDS, "labels": IDS, "token_type_ids": IDS}, "its batches are dict of .+, token_type_ids; give"),
    ((IDS, IDS[:, 1:]), r"its batches have torch.int64 \(2, 4\) and torch.int64 \(2, 3\); give ids"),
    ((IDS.float(), IDS), "its batches have torch.float32 .+; give ids"),
    ((IDS.repeat(1, 2), IDS.repeat(1, 2)), "its rows of 8 ids do not fit in model.block_size=4; cut them"),
    ((IDS + 5, IDS), "its ids are not all of the tokenizer's 10; make them"),
    ((IDS, IDS - 1), "its targets are not all of the tokenizer's 10; make them"),
    ({"input_ids": IDS, "labels": IDS, "attention_mask": IDS.flip(1) > 0}, "its attention_mask has zeros before ones"),
]


@pytest.mark.parametrize(("batch", "why"), REFUSED)
def test_batches_that_are_not_understood(batch: Any, why: str) -> None:
    with pytest.raises(UserError, match=f"^data=Own: {why}"):
        as_rows(batch, "Own", 4, 10)


def test_modules_that_cannot_be_taken() -> None:
    class Untested(Own):
        val_dataloader = L.LightningDataModule.val_dataloader

    class Empty(Own):
        def train_dataloader(self) -> Any:
            return []

    class Divided(Own):
        def train_dataloader(self) -> Any:
            return DataLoader(self.rows, sampler=DistributedSampler(self.rows, 2, 0))

    with pytest.raises(UserError, match=r"^data=Untested: has no val_dataloader; write one"):
        data(of=Untested).val_dataloader()
    with pytest.raises(UserError, match=r"^data=Empty: a loader gives no batch; "):
        next(iter(data(of=Empty).train_dataloader()))
    with pytest.raises(UserError, match=r"^data=Divided: its train_dataloader is divided among ranks already; "):
        next(iter(data(of=Divided).train_dataloader()))


def test_rows_of_unequal_length_are_padded() -> None:
    class Ragged(Own):
        def train_dataloader(self) -> Any:
            return [(torch.full((2, n), n), torch.full((2, n), n)) for n in (3, 5)]

    (x, y, count, _), *_ = data(of=Ragged, micro=8, steps=1).train_dataloader()
    assert x.shape == (8, 5) and count == 2 * (3 + 5) * 2
    assert x.tolist() == [[3, 3, 3, 0, 0]] * 2 + [[5] * 5] * 2 + [[3, 3, 3, 0, 0]] * 2 + [[5] * 5] * 2
    assert y[0].tolist() == [3, 3, 3, IGNORE, IGNORE]


def test_one_call_builds_the_data_of_any_option(texts: str) -> None:
    found = build_data(Mine(batch_size=8), Byte(), 10, 1, CausalLM())
    assert isinstance(found.module, ForeignDataModule) and found.corpus is None
    assert (found.tokenizer.n_vocab, found.module.data_hash) == (257, Mine().sha256())
    assert found.module.describe().startswith("rows of Own, about ")
    config = Files(files=[texts.strip("[]")])
    found = build_data(config, Byte(), 32, 1, CausalLM())
    assert isinstance(found.module, TextDataModule) and found.corpus is not None
    assert found.module.data_hash == found.corpus.manifest["sha256"]
    assert (
        found.module.describe()
        == f"{len(found.module.train[0])} of 32 tokens an epoch; 30 tokens at the end are dropped"
    )
    assert found.module.protocol()["windows"] == "one after another"
    with pytest.raises(UserError, match=r"^data=BatchConfig: is neither text, nor a data module, nor examples; "):
        build_data(BatchConfig(), Byte(), 32, 1, CausalLM())


def test_a_tokenizer_is_trained_on_the_text_that_the_config_gives() -> None:
    @dataclass
    class Spoken(Mine):
        def texts(self) -> Iterator[str]:
            return iter(["the cat the cat the cat"])

    assert build_data(Spoken(), BPE(vocab_size=300), 10, 1, CausalLM()).tokenizer.n_vocab > 257


class Recorder(L.LightningModule):
    """Remembers the batches that Lightning hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.seen = torch.nn.Parameter(torch.zeros(())), list[Batch]()
        self.held_out = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return self.w * 1.0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.held_out += int((batch.y != IGNORE).any(1).sum())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_lightning_takes_it(tmp_path: Path) -> None:
    module, quiet = data(steps=6), {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        max_steps=6, accumulate_grad_batches=4, accelerator="cpu", logger=False, check_val_every_n_epoch=None,
        val_check_interval=8, num_sanity_val_steps=0, enable_checkpointing=False, **quiet,
    )  # fmt: skip
    recorder = Recorder()
    trainer.fit(recorder, module)
    assert equal(recorder.seen, list(data(steps=6).train_dataloader()))
    assert recorder.held_out == 3 * ROWS
    trainer.save_checkpoint(tmp_path / "6.ckpt")
    saved = torch.load(tmp_path / "6.ckpt", weights_only=True)
    assert saved["ForeignDataModule"] == {"data_hash": Mine().sha256()}
