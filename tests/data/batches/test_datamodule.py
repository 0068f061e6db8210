import pickle
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import Dataset
from torch.utils.data._utils.pin_memory import pin_memory

from gptlab.data.batches.batch import IGNORE, Batch
from gptlab.data.batches.datamodule import TextDataModule, WatchedLoader
from gptlab.data.batches.order import Order
from gptlab.data.text.sources import Files, Mixture
from gptlab.data.tokens.prepare import prepare
from gptlab.errors import UserError
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tokenizers.byte import Byte

T = 32
CPU = SimpleNamespace(
    global_rank=0, world_size=1, global_step=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
)


@pytest.fixture
def files(texts: str) -> list[str]:
    return [texts.strip("[]")]


def module(data: Any, block_size: int = T) -> TextDataModule:
    found = TextDataModule(prepare(data, Byte()), data, block_size, seed=1)
    found.steps, found.micro_batch_size = 3, 4
    found.trainer = CPU
    return found


def test_steps_are_the_order_s_windows(files: list[str]) -> None:
    data = module(Files(files=files, batch_size=8))
    batches = list(data.train_dataloader())
    assert [tuple(batch.x.shape) for batch in batches] == [(4, T)] * 6
    (windows,) = data.train
    places = Order([len(windows)], [1.0], 1).at(range(24))
    assert torch.equal(torch.cat([batch.x for batch in batches]), windows.__getitems__([i for _, i in places])[0])
    assert data.seconds_waited > 0


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_a_batch_keeps_the_targets_of_its_step_on_its_way(packing: str, workers: int, files: list[str]) -> None:
    """Through worker processes, pinned memory and Lightning's transfer to a device."""
    data = module(Files(files=files, batch_size=8, packing=packing, num_workers=workers), 400)
    data.steps = 4
    batches = list(data.train_dataloader())
    for step in range(4):
        parts = batches[2 * step : 2 * step + 2]
        count = sum(int((batch.y != IGNORE).sum()) for batch in parts)
        assert [batch.step_targets for batch in parts] == [count, count]
        assert all(batch.step_tokens in (count, count + 1) for batch in parts)  # the very last token has no target
        assert packing == "documents" or count == 8 * 400
    moved = move_data_to_device(batches[0], torch.device("cpu"))
    for found in (moved, pickle.loads(pickle.dumps(batches[0]))):
        assert isinstance(found, Batch) and found[2:] == batches[0][2:]
    assert all(batch[2:] == (None, None) for batch in data.val_dataloader())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pins memory for a GPU")
def test_pinned_memory_keeps_it_too() -> None:
    batch = pin_memory(Batch(torch.zeros(1, 2), torch.zeros(1, 2), 7, 9))
    assert isinstance(batch, Batch) and batch[2:] == (7, 9) and batch.x.is_pinned()


def test_tokens_are_what_is_read_and_padding_is_none(files: list[str]) -> None:
    dense = module(Files(files=files, batch_size=8))
    (windows,) = dense.train
    assert (dense.tokens_per_step, dense.tokens_per_epoch) == (8 * T, len(windows) * T)
    assert isinstance(dense.tokens_per_step, int)
    packed = module(Files(files=files, batch_size=8, packing="documents"), 400)
    (windows,) = packed.train
    _, y, *_ = windows.__getitems__(range(len(windows)))
    assert packed.tokens_per_epoch == int((y != IGNORE).sum()) + 1 == len(windows.tokens)  # the last one has no target
    assert packed.tokens_per_step == pytest.approx(8 * len(windows.tokens) / len(windows))
    assert packed.tokens_per_step < 8 * 400


def test_tokens_of_a_step_are_counted_by_the_weights_of_sources(files: list[str]) -> None:
    parts = {name: Files(files=files, val_fraction=fraction) for name, fraction in (("a", 0.1), ("b", 0.5))}
    data = module(Mixture(parts=parts, weights={"b": 3.0}, batch_size=1024, packing="documents"), 400)
    data.micro_batch_size, data.steps = 1024, 1
    (batch,) = data.train_dataloader()
    a, b = (windows.lengths.mean() for windows in data.train)
    assert data.tokens_per_step == pytest.approx(256 * a + 768 * b)
    assert batch.step_tokens == pytest.approx(data.tokens_per_step, rel=0.05)


def test_a_mixture_deals_out_windows_of_every_part(files: list[str]) -> None:
    parts = {name: Files(files=files, val_fraction=fraction) for name, fraction in (("a", 0.1), ("b", 0.5))}
    data = module(Mixture(parts=parts, weights={"b": 3.0}, batch_size=256, micro_batch_size=4))
    places = [place for batch in data.train_dataloader().batch_sampler for place in batch.windows]
    assert sum(source == 1 for source, _ in places) / len(places) == pytest.approx(0.75, abs=0.05)
    assert len(data.val.tokens) == sum(len(prepare(part, Byte()).val) for part in parts.values())


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_validation_predicts_every_held_out_token_once(files: list[str], packing: str) -> None:
    data = module(Files(files=files, packing=packing))
    y = torch.cat([batch.y.flatten() for batch in data.val_dataloader()])
    assert y[y != IGNORE].tolist() == data.val.tokens[1:].tolist()


def test_a_split_shorter_than_a_window(files: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"^model\.block_size=4000: the held-out split has .+, less than one window; .+$"
    ):
        module(Files(files=files), 4000)


def test_a_checkpoint_goes_on_with_its_own_data_only(files: list[str]) -> None:
    mine = module(Files(files=files))
    state = mine.state_dict()
    assert state == {"data_hash": prepare(Files(files=files), Byte()).manifest["sha256"]}
    module(Files(files=files)).load_state_dict(state)
    other = [files[0].replace("*", "0*")]
    with pytest.raises(UserError, match=r"^data=.+: the checkpoint was trained on other data \(.+\); .+other_data_ok"):
        module(Files(files=other)).load_state_dict(state)
    module(Files(files=other, other_data_ok=True)).load_state_dict(state)


class Slow(Dataset[Any]):
    def __getitems__(self, indices: list[int]) -> Any:
        time.sleep(0.02)
        return indices


def test_the_loader_knows_how_long_it_was_waited_for() -> None:
    loader = WatchedLoader(Slow(), batch_sampler=[[0], [1], [2]], collate_fn=list)
    before = time.perf_counter()
    for i, batch in enumerate(loader):
        assert batch == [i]
        working = time.perf_counter()
        time.sleep(0.05)
        before += time.perf_counter() - working
    assert 0.06 <= loader.waited <= time.perf_counter() - before  # not what the loop took


@pytest.mark.parametrize("positions", ["learned", "rope", "alibi", "none"])
def test_masked_documents_are_as_if_alone(positions: str) -> None:
    eot, lengths = 9, [5, 1, 12, 3]
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=T, vocab_size=10, positions=positions, init="torch")
    gpt = GPT(config).eval()
    documents = [torch.cat([torch.tensor([eot]), torch.randint(0, eot, (n,))]) for n in lengths]
    x = torch.stack([torch.cat(documents), torch.cat(documents[::-1])])  # another order in another row
    masked, unmasked = gpt(x, (x == eot).cumsum(1)), gpt(x)
    for row, order in enumerate((documents, documents[::-1])):
        begin = 0
        for i, document in enumerate(order):
            here = slice(begin, begin + len(document))
            alone = gpt(document[None])[0]
            torch.testing.assert_close(masked[row, here], alone, atol=1e-5, rtol=1e-4)
            assert torch.allclose(unmasked[row, here], alone, atol=1e-3) == (i == 0)
            begin += len(document)


def test_windows_that_would_skip_tokens_are_refused(texts: str) -> None:
    config = Files(files=[texts.strip("[]")], stride=33)
    with pytest.raises(UserError, match=r"^data\.stride=33: skips tokens between windows of 32; "):
        TextDataModule(prepare(config, Byte()), config, 32, 0)
