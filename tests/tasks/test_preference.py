"""Preference tuning: losses by hand from transformers' logits, a reference that stays, and runs that go on."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import gptlab
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.data.batches.batch import IGNORE, tensors
from gptlab.data.batches.examples import held_out_records
from gptlab.data.batches.pairs import Pairs
from gptlab.errors import UserError
from gptlab.runs.run_dir import RunDir
from gptlab.tasks.base import Reading
from gptlab.tasks.divergence import Divergence
from gptlab.tasks.preference import Preference
from gptlab.tokenizers.byte import Byte
from gptlab.training.config import TrainConfig
from gptlab.training.run import train
from tests.conftest import tiny_model, tiny_overrides, write_texts
from tests.forked import gptlab as run_gptlab
from tests.training.test_resume import kill_at, require_equal_after_a_kill, resumed, rows

T = 32
TUNE = [*tiny_model(), "experiment=dpo", "init_from=base", "data.files=[pairs.jsonl]", "task.template=plain"]
TUNE += ["budget.epochs=null", "data.batch_size=4", "data.val_fraction=0.2", "optimizer.lr=0.01", "logger=csv"]
Ask = Callable[..., TrainConfig]
Message = dict[str, str]


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def records(n: int = 30) -> list[dict[str, Any]]:
    """Pairs of unequal lengths, some of which follow on earlier turns."""
    found: list[dict[str, Any]] = []
    for i in range(n):
        earlier = [said("user", "a"), said("assistant", "b" * (i % 4))] if i % 3 == 0 else []
        prompt = [*earlier, said("user", f"{i}?")]
        answers = [[said("assistant", "yes" + "!" * (i % 4))], [said("assistant", "no" + "." * (i % 5))]]
        found.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    return found


def write(path: Path, found: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in found))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, base, one that is tuned on pairs, dpo, and another one, ipo."""
    folder = tmp_path_factory.mktemp("preference")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_texts(folder / "texts")
        write(folder / "pairs.jsonl", records())
        train(compose("train", [*tiny_overrides("[texts/*.txt]"), "model.dropout=0.1", "run_dir=base"]))
        train(compose("train", [*TUNE, "run_dir=dpo"]))
        train(compose("train", [*TUNE, "run_dir=ipo", "task.loss=ipo", "task.beta=0.3", "data.old_loss=false"]))
        for name in ("base", "dpo", "ipo"):
            export(compose("export", [f"run={name}", f"out={name}-hf"]))
    return folder


@pytest.fixture
def ask(made: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    monkeypatch.chdir(made)
    return lambda *more: compose("train", [*TUNE, *more])


def pairs(found: list[dict[str, Any]], training: bool = True, **settings: Any) -> Pairs:
    return Preference("plain", **settings).examples(found, Byte().build([]), settings.pop("block_size", T), training)


def ids_of(messages: list[Message]) -> list[int]:
    """The ids of a conversation in the plain template: what is said, and the end of each answer."""
    return [i for m in messages for i in [*m["content"].encode(), *([256] if m["role"] == "assistant" else [])]]


def log_prob(hf: Any, prompt: list[Message], answer: list[Message]) -> tuple[Tensor, int]:
    """The log-probability of an answer, the sum over its tokens, by transformers; and their number."""
    before, ids = ids_of(prompt), torch.tensor([ids_of([*prompt, *answer])])
    logits = hf(ids).logits.double().log_softmax(-1)[0, :-1]
    each = logits.gather(1, ids[0, 1:, None])[len(before) - 1 :, 0]
    return each.sum(), len(each)


def by_hand(policy: Any, reference: Any, record: dict[str, Any], loss: str, beta: float) -> dict[str, Tensor]:
    """The figures of one pair by the formulas of the papers; IPO's log-probabilities are means over tokens."""
    ratios = []
    for side in ("chosen", "rejected"):
        ours, n = log_prob(policy, record["prompt"], record[side])
        with torch.no_grad():
            theirs, _ = log_prob(reference, record["prompt"], record[side])
        ratios.append((ours - theirs) / (n if loss == "ipo" else 1))
    gap = ratios[0] - ratios[1]
    cost = (gap - 1 / (2 * beta)) ** 2 if loss == "ipo" else (1 + (-beta * gap).exp()).log()
    rewards = {"chosen_reward": beta * ratios[0], "rejected_reward": beta * ratios[1]}
    return {"loss": cost, "accuracy": (gap > 0).double(), "reward_margin": beta * gap, **rewards}


def of_transformers(name: str) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(f"{name}-hf").double().eval()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beta"), [("dpo", 0.1), ("ipo", 0.3)])
def test_the_losses_are_those_of_the_papers(name: str, beta: float, ask: Ask) -> None:
    """Figures of held-out pairs, and the gradient of a batch of training, in float64 from transformers' logits."""
    policy, reference = of_transformers(name), of_transformers("base")
    held_out, _ = held_out_records(Path(name, "held_out"))
    with torch.no_grad():
        each = [by_hand(policy, reference, record, name, beta) for record in held_out]
    expected = {key: float(torch.stack([figures[key] for figures in each]).mean()) for key in each[0]}
    found = evaluate(compose("evaluate", [f"run={name}", "batch_size=4"]))
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-5)
    assert (found["pairs"], found["examples"], found["bytes"]) == (6, 6, None)
    assert {key: float(rows(Path(name))[-1][f"val/{key}"]) for key in expected} == pytest.approx(expected, abs=1e-5)

    some = records()[:5]
    torch.stack([by_hand(policy, reference, record, name, beta)["loss"] for record in some]).mean().backward()
    gpt, _ = gptlab.load(name)
    examples = pairs(some, loss=name, beta=beta)
    sides = [(record["prompt"], record[side]) for record in some for side in ("chosen", "rejected")]
    with torch.no_grad():
        examples.reference = torch.stack([log_prob(reference, *side)[0] for side in sides]).view(5, 2).float()
    for chunked in (False, True):
        gpt.zero_grad()
        task, batch = Preference("plain", loss=name, beta=beta), examples.__getitems__(range(6))  # one past the end
        losses = task.losses(gpt, *tensors(batch), reading=Reading(chunked=chunked))["loss"]
        assert losses[5] == 0
        (losses.sum() / int(examples.targets.sum())).backward()
        assert (gpt.wte.weight.grad.double() - policy.transformer.wte.weight.grad).abs().max() < 1e-5


@torch.no_grad()
def test_the_log_shows_what_is_forgotten(made: Path, ask: Ask) -> None:
    """Loss on the base's text, which begins at its own, and the divergence over answers that it has drawn."""
    first, *_, last = [row for row in rows(made / "dpo") if "val/loss" in row]
    assert (first["step"], float(first["val/reference/kl"]), float(first["val/accuracy"])) == ("0", 0.0, 0.0)
    assert float(first["val/loss"]) == pytest.approx(math.log(2), abs=1e-6)
    old = evaluate(compose("evaluate", ["run=base"]))
    for key in ("loss", "bits_per_byte"):
        assert float(first[f"val/old/{key}"]) == pytest.approx(old[key], abs=1e-5)
    assert abs(float(last["val/old/loss"]) - old["loss"]) > 1e-4 and "val/old/loss" not in rows(made / "ipo")[-1]

    state = torch.load(made / "dpo/checkpoints/last.ckpt", weights_only=True)["ExampleDataModule"]["reference"]
    drawn, policy, reference = state["answers"], of_transformers("dpo"), of_transformers("base")
    held_out, _ = held_out_records(made / "dpo/held_out")
    total = 0.0
    for row, record in enumerate(held_out):
        x, counts = drawn["x"][row], drawn["y"][row] != IGNORE
        asked = ids_of(record["prompt"])
        assert x[: len(asked)].tolist() == asked and int(counts.nonzero()[0]) == len(asked) - 1
        costs = []
        for hf in (reference, policy):
            logits = hf(x[None]).logits.double().log_softmax(-1)[0]
            costs.append(-logits.gather(1, drawn["y"][row].clamp(min=0)[:, None])[counts, 0])
        assert drawn["nats"][row][counts].tolist() == pytest.approx(costs[0].tolist(), abs=1e-4)
        assert int(counts.nonzero()[-1]) == T - 1 or drawn["y"][row][counts][-1] == 256  # to its end, or the context's
        total += float(((costs[0] - costs[1]).exp() - 1 - (costs[0] - costs[1])).sum())
    assert float(last["val/reference/kl"]) == pytest.approx(total / len(held_out), abs=1e-5)


def test_the_divergence_is_estimated_without_bias() -> None:
    """Over all tokens that can be drawn, by their probabilities, its mean is the divergence itself."""
    p, q = (torch.randn(9, generator=torch.Generator().manual_seed(seed)).log_softmax(0) for seed in (0, 1))
    gpt = lambda x: q.expand(*x.shape, 9)  # noqa: E731
    y = torch.arange(9)[:, None]
    losses = Divergence().losses(gpt, torch.zeros_like(y), y, -p[:, None], Reading())["loss"][:, 0]
    assert losses.min() >= 0
    assert float((p.exp() * losses).sum()) == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-6)


def test_only_what_is_answered_last_counts() -> None:
    batch = pairs(records(4)).__getitems__(range(4))
    for i, record in enumerate(records(4)):
        for side, name in enumerate(("chosen", "rejected")):
            answer = record[name][0]["content"]
            y = batch.y[i, side]
            assert y[y != IGNORE].tolist() == [*answer.encode(), 256]
            ids = ids_of([*record["prompt"], *record[name]])
            assert batch.x[i, side, : len(ids) - 1].tolist() == ids[:-1]


def test_long_pairs_are_cut_skipped_or_refused() -> None:
    def one(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
        return {"prompt": [said("user", prompt)], "chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)]}  # fmt: skip

    some = [*records(3), one("a", "b" * 99, "c"), one("a", "b" * 90 + "c", "b" * 90 + "d"), one("a" * 99, "b", "c")]
    cut = pairs(some)
    assert cut.describe() == "1 pairs cut at their end, 2 left out: too long, or their answers do not differ"
    assert (len(cut), cut.longest_row) == (4, T)
    assert pairs(some, too_long="skip").describe().startswith("3 left out")
    held_out = pairs(some, training=False, too_long="skip")
    assert held_out.targets.tolist() == [1, 1, 1, 1, 0, 0]  # scores are of each record
    batch = held_out.__getitems__([4, 5])
    assert (batch.y == IGNORE).all() and (batch.reference == 0).all()
    with pytest.raises(
        UserError, match=r"^data=example 4: has 101 tokens, and a row has room for 33; shorten it, raise"
    ):
        pairs(some, too_long="refuse")


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["null", "lora"])
def test_it_is_resumed_as_if_never_stopped(adapter: str, ask: Ask, made: Path, tmp_path: Path) -> None:
    more = ["data.micro_batch_size=2", "checkpoint.every_n_steps=2", "ema=0.9", f"adapter={adapter}"]
    require_equal_after_a_kill(ask, tmp_path, 7, *more)
    found = [torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True) for name in ("run", "whole")]
    first, second = (each["ExampleDataModule"]["reference"] for each in found)
    assert all(torch.equal(first[part], second[part]) for part in ("train", "val"))
    assert all(torch.equal(first["answers"][key], value) for key, value in second["answers"].items())
    assert evaluate(compose("evaluate", [f"run={tmp_path}/run"])) == evaluate(
        compose("evaluate", [f"run={tmp_path}/whole"])
    )


@pytest.mark.slow
def test_other_pairs_are_read_by_the_model_that_it_began_with(ask: Ask, made: Path, tmp_path: Path, monkeypatch: Any) -> None:  # fmt: skip
    for name in ("base", "pairs.jsonl"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    more = ["data.old_loss=false", "checkpoint.every_n_steps=2", f"run_dir={tmp_path}/run"]
    kill_at(4, compose("train", [*TUNE, *more]))
    kept = evaluate(compose("evaluate", ["run=run"]))
    write(tmp_path / "same.jsonl", held_out_records(tmp_path / "run/held_out")[0])
    other = ["run=run", "data=preferences", "data.files=[same.jsonl]", "data.val_fraction=1"]
    assert evaluate(compose("evaluate", other))["loss"] == pytest.approx(kept["loss"], abs=1e-6)
    train(compose("train", [*tiny_overrides(f"[{made}/texts/*.txt]"), "seed=2", "run_dir=other", "init_from=base"]))
    write(tmp_path / "pairs.jsonl", records(33))
    with pytest.raises(
        UserError, match=r"^data.other_data_ok=true: the run's reference knows its own pairs alone; begin"
    ):
        resumed(tmp_path / "run", "data.other_data_ok=true")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"^run=run: the model that it began with, .* is not there .*; put it back at /"
    ):
        evaluate(compose("evaluate", other))
    (tmp_path / "other").rename(tmp_path / "base")
    with pytest.raises(UserError, match=r"^run=run: the model that it began with, \S+base, has changed since; put"):
        evaluate(compose("evaluate", other))


@pytest.mark.slow
def test_two_ranks_are_as_one(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "pairs.jsonl", records())
    train(compose("train", [*tiny_overrides(f"[{made}/texts/*.txt]"), "run_dir=base"]))
    train(compose("train", [*TUNE, "run_dir=one"]))
    run_gptlab("train", *TUNE, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "run_dir=two")
    for one, two in zip(rows(Path("one")), rows(Path("two")), strict=True):
        assert {k: float(v) for k, v in two.items()} == pytest.approx({k: float(v) for k, v in one.items()}, abs=1e-4)


def test_other_verbs(ask: Ask, made: Path, tmp_path: Path) -> None:
    found = sample(compose("sample", ["run=dpo", "chat=true", "prompt=1?", "max_new_tokens=4"]))
    assert found["samples"][0]["prompt"] == "1?"
    train(ask("budget.steps=1", "optimizer.lr=1e-4", f"run_dir={tmp_path}/b", "trainer.val_at_start=false"))
    out = compare(
        compose("compare", ["a=dpo", f"b={tmp_path}/b", "resamples=100", f"out={tmp_path}/c.json", "metric=loss"])
    )
    losses = [evaluate(compose("evaluate", [f"run={run}"]))["loss"] for run in ("dpo", tmp_path / "b")]
    assert out["difference"]["value"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    with pytest.raises(UserError, match=r"^b=ipo: its task is Preference\(.*loss='ipo'.*; compare runs of one task"):
        compare(compose("compare", ["a=dpo", "b=ipo"]))


def test_mistakes(ask: Ask, made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^task=preference: compares with the model that a run begins with, .*; give init"
    ):
        ask("init_from=null")
    with pytest.raises(UserError, match=r"^task.loss=kto: no such option; choose one of dpo, ipo$"):
        ask("task.loss=kto")
    with pytest.raises(UserError, match=r"^task.beta=0.0: is not above 0; 0.1 is usual"):
        ask("task.beta=0")
    with pytest.raises(
        UserError, match=r"^data=example 1: has no prompt, chosen, rejected; task=preference learns from"
    ):
        write(tmp_path / "talk.jsonl", [{"prompt": "a", "completion": "b"}] * 9)
        train(ask("data=instructions", f"data.files=[{tmp_path}/talk.jsonl]", f"run_dir={tmp_path}/run"))
    sft = [*tiny_model(), "init_from=base", "task=sft", "data=preferences", "data.files=[pairs.jsonl]"]
    with pytest.raises(UserError, match=r"^data=example 1: has no messages; task=sft learns from conversations"):
        train(compose("train", [*sft, f"run_dir={tmp_path}/run"]))
    assert not (tmp_path / "run").exists() and RunDir(made / "dpo").status() == "finished"
