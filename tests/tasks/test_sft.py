"""Supervised fine-tuning: the loss of transformers, packing that leaks nothing, answers, and runs that go on."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import gptlab
from gptlab.commands.chat import chat
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.batches.batch import IGNORE, tensors
from gptlab.data.batches.chat import Rows
from gptlab.data.batches.order import Order, OrderByLength
from gptlab.decoding.decoders import Greedy
from gptlab.errors import UserError
from gptlab.evaluation.chat import fitting
from gptlab.model.config import GPTConfig
from gptlab.model.gpt import GPT
from gptlab.tasks.base import Reading
from gptlab.tasks.sft import SFT
from gptlab.tokenizers.byte import Byte
from gptlab.tokenizers.chat_templates import chat_template
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import tiny_model
from tests.training.test_resume import require_equal_after_a_kill, rows

T = 64
SHORT = "task.template=plain"  # of which more than one fits into the context
LEARN = ["task=sft", "data=instructions", "data.files=[talk.jsonl]", "tokenizer=byte", SHORT, *tiny_model()]
LEARN += ["data.batch_size=4", "data.val_fraction=0.2", "optimizer.lr=0.01", f"model.block_size={T}"]
Ask = Callable[..., TrainConfig]


def talks(n: int = 40) -> list[dict[str, Any]]:
    """Conversations of unequal lengths and numbers of turns."""
    return [
        {
            "messages": [
                turn
                for k in range(1 + i % 3)
                for turn in (
                    {"role": "user", "content": f"{i}+{k}?"},
                    {"role": "assistant", "content": f"{i + k}" + "!" * (i % 5)},
                )
            ]
        }
        for i in range(n)
    ]


def write(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in found))


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    write(tmp_path / "talk.jsonl", talks())
    return lambda *more: compose("train", [*LEARN, f"run_dir={tmp_path}/run", *more])


def model(positions: str = "learned", **more: Any) -> GPT:
    torch.manual_seed(1)
    config = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=T, vocab_size=257, positions=positions, **more)
    gpt = GPT(config)
    for p in gpt.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return gpt.eval()


def examples(task: SFT, training: bool, found: list[dict[str, Any]] | None = None, block_size: int = T) -> Rows:
    return task.examples(found or talks(), Byte().build([]), block_size, training)


def by_hand(gpt: Any, record: dict[str, Any], template: str = "plain") -> list[float]:
    """The cost of every token that the assistant says, each computed by itself, in float64."""
    tokenizer = Byte().build([])
    ids: list[int] = []
    costs = []
    for turn in record["messages"]:
        said = [*tokenizer.encode(turn["content"]), *([tokenizer.eot] if turn["role"] == "assistant" else [])]
        for token in said:
            if turn["role"] == "assistant":
                logits = gpt(torch.tensor([ids]))[0, -1].detach().double().numpy()
                costs.append(float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token]))
            ids.append(token)
    return costs


@torch.no_grad()
def test_the_loss_is_that_of_transformers(tmp_path: Path, ask: Ask) -> None:
    """Labels of -100 where the assistant does not speak: loss of a batch with padding, and its gradient."""
    train(ask("budget.steps=3", "model.dropout=0"))
    export(compose("export", ["run=run", f"out={tmp_path}/hf"]))
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    gpt, _ = gptlab.load("run")
    found = [
        tokenizer.apply_chat_template(each["messages"], return_dict=True, return_assistant_tokens_mask=True)
        for each in talks(6)
    ]
    width = max(len(each["input_ids"]) for each in found)
    labels = torch.full((6, width), -100)
    ids, seen = torch.zeros(6, width, dtype=torch.long), torch.zeros(6, width, dtype=torch.long)
    for i, each in enumerate(found):
        n = len(each["input_ids"])
        ids[i, :n], seen[i, :n] = torch.tensor(each["input_ids"]), 1
        said = torch.tensor(each["assistant_masks"]).bool()
        labels[i, :n] = torch.where(said, ids[i, :n], -100)
    with torch.enable_grad():
        expected = hf(ids, attention_mask=seen, labels=labels).loss
        expected.backward()
        for packing in (False, True):
            gpt.zero_grad()
            every = examples(SFT("plain", packing=packing), True, talks(6))
            batch = every.__getitems__(range(len(every)))
            losses = SFT("plain").losses(gpt, *tensors(batch), reading=Reading())["loss"]
            loss = losses.sum() / int((batch.y != IGNORE).sum())
            assert int(every.targets.sum()) == int((labels != -100).sum())
            assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
            loss.backward()
            theirs = hf.transformer.wte.weight.grad
            assert gpt.wte.weight.grad is not None and (gpt.wte.weight.grad - theirs).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("positions", ["learned", "rope", "alibi"])
def test_packed_conversations_do_not_see_each_other(positions: str) -> None:
    gpt, task = model(positions), SFT("plain")
    every = examples(task, True)
    assert len(every) < 20 and max(map(len, every.rows)) >= 3
    batch = every.__getitems__(range(len(every)))
    losses = task.losses(gpt, *tensors(batch), reading=Reading())["loss"]
    chunked = task.losses(gpt, *tensors(batch), reading=Reading(chunked=True))["loss"]
    assert torch.allclose(losses, chunked, atol=1e-5)
    records = talks()
    for row, members in enumerate(every.rows):
        found = losses[row][batch.y[row] != IGNORE]
        expected = [cost for i in members for cost in by_hand(gpt, records[i])]
        assert found.tolist() == pytest.approx(expected, abs=2e-5)


def test_every_conversation_is_in_one_row_and_rows_are_full() -> None:
    every = examples(SFT("plain"), True, talks(200))
    assert sorted(i for row in every.rows for i in row) == list(range(200))
    assert every.lengths.max() <= T and every.lengths.sum() / (len(every) * T) > 0.95
    assert re.search(r"200 conversations packed, 9[5-9]\.\d% full$", every.describe())


@pytest.mark.slow
def test_a_step_divides_by_its_targets(ask: Ask, tmp_path: Path) -> None:
    """Rows of one conversation each, in four micro-batches of unequal numbers of targets."""
    still = ["optimizer.lr=1e-30", "optimizer.weight_decay=0", "logger=csv", "logger.every_n_steps=1", "budget.steps=2"]
    train(ask(*still, "task.packing=false", "data.micro_batch_size=1"))
    gpt, _ = gptlab.load("run")
    data = examples(SFT("plain", packing=False), True, _training(ask))
    order = Order([len(data)], [1.0], 1337)
    for step, row in enumerate(rows(tmp_path / "run")[:2]):
        numbers = [number for _, number in order.at(range(4 * step, 4 * step + 4))]
        costs = [by_hand(gpt, _training(ask)[i]) for i in numbers]
        assert len(set(map(len, costs))) > 1
        mean = sum(map(sum, costs)) / sum(map(len, costs))
        assert float(row["train/loss"]) == pytest.approx(mean, abs=1e-5)


def _training(ask: Ask) -> list[dict[str, Any]]:
    from gptlab.data.batches.examples import read_examples

    config = ask()
    return [dict(each) for each in read_examples(config.data, config.tokenizer).train]  # type: ignore[arg-type]


def test_long_conversations_are_cut_skipped_or_refused(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    long = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 100}]}
    asked = {"messages": [{"role": "user", "content": "a" * 100}, {"role": "assistant", "content": "b"}]}
    some = [*talks(3), long, asked]
    cut = examples(SFT("plain"), True, some)
    assert cut.describe().endswith("1 cut at their end, 1 left out: too long, or no target")
    assert (cut.found.cut, cut.found.skipped, len(cut.found)) == (1, 1, 4)
    skipped = examples(SFT("plain", too_long="skip"), True, some)
    assert (skipped.found.cut, skipped.found.skipped, len(skipped.found)) == (0, 2, 3)
    held_out = examples(SFT("plain", too_long="skip"), False, some)
    assert (len(held_out), held_out.targets[-1], held_out.found.cut) == (5, 0, 2)  # scores are of each record
    with pytest.raises(
        UserError, match=r"^data=example 4: has 102 tokens, and a row has room for 65; shorten it, raise"
    ):
        examples(SFT("plain", too_long="refuse"), True, some)
    with pytest.raises(UserError, match=r"^task.too_long=no: no such option; choose one of cut, skip, refuse"):
        ask("task.too_long=no")
    train(ask("model.block_size=16", "budget.steps=1"))
    assert re.search(r"\d+ cut at +their end; held out: \d+ cut", re.sub(r"\s+", " ", capsys.readouterr().out))


def test_all_tokens_can_count(tmp_path: Path) -> None:
    both = [examples(SFT("plain", targets=targets), True).targets.sum() for targets in ("completions", "all")]
    every = examples(SFT("plain", targets="all"), True)
    assert both[0] < both[1] == every.lengths.sum()


def test_batches_by_length() -> None:
    """Each example is read as often as without, batches have similar lengths, and any part of the order is the same."""
    lengths = np.random.default_rng(0).integers(1, 500, 4096)
    plain, by_length = Order([4096], [1.0], 7), OrderByLength(lengths, 8, 7)
    whole = by_length.arrays(range(4096))[1]
    assert sorted(whole.tolist()) == sorted(plain.arrays(range(4096))[1].tolist()) == list(range(4096))
    padding = [
        1 - lengths[w].reshape(-1, 8).sum() / (8 * lengths[w].reshape(-1, 8).max(1).sum())
        for w in (plain.arrays(range(4096))[1], whole)
    ]
    assert padding[0] > 0.4 and padding[1] < 0.05
    assert by_length.arrays(range(1000, 1013))[1].tolist() == whole[1000:1013].tolist()
    tops = lengths[whole].reshape(-1, 8).max(1)[:32]
    assert sorted(tops.tolist()) != tops.tolist() != sorted(tops.tolist())[::-1]


@pytest.mark.slow
def test_it_is_resumed_as_if_never_stopped(ask: Ask, tmp_path: Path) -> None:
    more = ["data.micro_batch_size=2", "model.dropout=0.1", "checkpoint.every_n_steps=2", "logger=csv", "ema=0.9"]
    more += ["data.by_length=true"]
    require_equal_after_a_kill(ask, tmp_path, 9, *more)
    samples = [(tmp_path / name / "samples.jsonl").read_text() for name in ("run", "whole")]
    assert samples[0] == samples[1]


@pytest.mark.slow
def test_it_learns_to_answer_and_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = {"grass": "green", "snow": "white", "coal": "black", "blood": "red"}
    write(tmp_path / "talk.jsonl", [{"prompt": k, "completion": v} for k, v in colours.items()])
    more = ["data.val_files=[talk.jsonl]", "task.template=chatml", "budget.steps=60", "model.n_embd=32"]
    summary = train(
        compose("train", [*LEARN, *more, f"run_dir={tmp_path}/run", "sample_prompts=[snow]", "decoder=greedy"])
    )
    assert summary is not None and summary["val_loss"] < 0.1
    assert json.loads((tmp_path / "run/samples.jsonl").read_text().splitlines()[-1])["text"] == "\nwhite"
    found = sample(compose("sample", ["run=run", "chat=true", "prompts=[grass,coal]", "decoder=greedy"]))
    assert [each["text"] for each in found["samples"]] == ["green", "black"]
    best = sample(compose("sample", ["run=run", "chat=true", "prompt=blood", "decoder=beam", "max_new_tokens=12"]))
    assert best["samples"][0]["text"] == "red"
    result = evaluate(compose("evaluate", ["run=run"]))
    gpt, _ = gptlab.load("run")
    template = chat_template("chatml", Byte().build([]))
    costs = 0.0
    for name, colour in colours.items():
        ids = template.prompt([{"role": "user", "content": name}])
        for token in [*colour.encode(), 256]:
            costs -= gpt(torch.tensor([ids]))[0, -1].log_softmax(-1)[token].item()
            ids.append(token)
    targets = sum(len(colour) + 1 for colour in colours.values())
    assert result["tokens"] == targets and result["loss"] == pytest.approx(costs / targets, abs=1e-5)
    assert "bits_per_byte" not in result and result["examples"] == 4

    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", open_lines("snow\n\n/forget\ngrass\n"))
    talk = chat(compose("chat", ["run=run", "decoder=greedy", "max_new_tokens=12"]))
    out = capsys.readouterr().out
    assert talk["messages"] == [{"role": "user", "content": "grass"}, {"role": "assistant", "content": "green"}]
    assert "white\n" in out and "green\n" in out


def open_lines(text: str) -> Any:
    import io

    return io.StringIO(text)


def test_the_oldest_turns_are_forgotten() -> None:
    template = chat_template("plain", Byte().build([]))
    said = [turn for each in talks(9)[0::3] for turn in each["messages"]]
    first = [{"role": "system", "content": "S" * 10}]
    kept, forgotten = fitting(template, first, said, "next", 10 + 4 + len("3+0?3!!!") + 1)
    assert (kept, forgotten) == (said[4:], 4)
    assert fitting(template, first, said, "next" * 99, 20) == ([], 6)


@pytest.mark.slow
def test_runs_that_differ_in_packing_are_compared(ask: Ask, tmp_path: Path) -> None:
    train(ask("budget.steps=1", f"run_dir={tmp_path}/a"))
    train(ask("budget.steps=8", "task.packing=false", f"run_dir={tmp_path}/b"))
    found = compare(compose("compare", ["a=a", "b=b", "resamples=200"]))
    losses = [evaluate(compose("evaluate", [f"run={name}"]))["loss"] for name in "ab"]
    assert found["difference"]["value"] == pytest.approx(losses[1] - losses[0], abs=1e-6)


def test_what_has_no_chat_template_says_so(ask: Ask, tiny: Ask) -> None:
    train(tiny("budget.steps=1"))
    why = r"^run=\S*run: neither its task nor its tokenizer has a chat template; fine-tune it first: task=sft"
    with pytest.raises(UserError, match=why):
        sample(compose("sample", ["run=run", "chat=true", "prompt=a"]))
    with pytest.raises(UserError, match=why):
        chat(compose("chat", ["run=run"]))
    for more, line in {"start=eot": "^start=eot: and chat are", "chat=false": "^system=s: goes with"}.items():
        with pytest.raises(UserError, match=line):
            compose("sample", ["chat=true", "prompt=a", "system=s", more])


def test_the_decoder_of_samples_is_used() -> None:
    assert SFT("plain").samples(model(), Byte().build([]), ["a"], Greedy(), 0)[0].startswith("\n")
