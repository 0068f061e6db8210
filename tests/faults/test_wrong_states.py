"""A checkpoint that is whole, and is not what its run goes on from: one line says what is wrong, and nothing changes."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gptlab import registry
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.build import build
from gptlab.training.checkpoint_state import require_state
from gptlab.training.resume import checkpoint_of
from gptlab.training.run import train
from gptlab.training.start import start
from tests.conftest import save_by_hand, tiny_overrides
from tests.faults.conftest import Ask
from tests.faults.instants import fingerprint

Saved = dict[str, Any]


def _first(saved: Saved) -> Saved:
    """Return the optimizer's state of the first parameter."""
    found: Saved = saved["optimizer_states"][0]["state"][0]
    return found


def _group(saved: Saved) -> Saved:
    found: Saved = saved["optimizer_states"][0]["param_groups"][0]
    return found


def _of(saved: Saved, name: str) -> Saved:
    found: Saved = saved["callbacks"][name]
    return found


def _other_optimizer(saved: Saved) -> None:
    """Give the state of plain momentum, which has as many groups of as many parameters."""
    weights = [torch.nn.Parameter(state["exp_avg"]) for state in saved["optimizer_states"][0]["state"].values()]
    sizes = [len(group["params"]) for group in saved["optimizer_states"][0]["param_groups"]]
    groups = [{"params": weights[: sizes[0]]}, {"params": weights[sizes[0] :]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for each in weights:
        each.grad = torch.zeros_like(each)
    optimizer.step()
    saved["optimizer_states"] = [optimizer.state_dict()]


# what is done to a checkpoint, and what the line says of it
WRONG: dict[str, tuple[Callable[[Saved], Any], str]] = {
    "no optimizer": (lambda s: s["optimizer_states"].clear(), "not enough values"),
    "two optimizers": (lambda s: s["optimizer_states"].append({}), "too many values"),
    "optimizer a list": (lambda s: s["optimizer_states"].__setitem__(0, [1]), "TypeError"),
    "another optimizer": (_other_optimizer, "state of parameter 0: its keys"),
    "another shape": (lambda s: _first(s).update(exp_avg=torch.zeros(3, 5)), "exp_avg is a tensor of shape"),
    "another key": (lambda s: _first(s).update(velocity=_first(s).pop("exp_avg")), "its keys"),
    "no tensor": (lambda s: _first(s).update(exp_avg_sq="fast"), "exp_avg_sq is 'fast'"),
    "a null": (lambda s: _first(s).update(exp_avg_sq=None), "exp_avg_sq is None"),
    "state of one is missing": (lambda s: s["optimizer_states"][0]["state"].pop(0), "no optimizer state for 1 of"),
    "no state": (lambda s: s["optimizer_states"][0].update(state={}), "no optimizer state for"),
    "state a list": (lambda s: s["optimizer_states"][0].update(state=[1, 2]), "is no dict"),
    "no groups": (lambda s: s["optimizer_states"][0].pop("param_groups"), "KeyError"),
    "a group less": (lambda s: s["optimizer_states"][0]["param_groups"].pop(), "the number of parameters in each"),
    "a parameter less": (lambda s: _group(s)["params"].pop(), "the number of parameters in each group"),
    "no betas": (lambda s: _group(s).pop("betas"), "the settings of the optimizer"),
    "one beta": (lambda s: _group(s).update(betas=(0.9,)), "betas"),
    "a rate in words": (lambda s: _group(s).update(lr="fast"), "lr is 'fast'"),
    "no schedule": (lambda s: s["lr_schedulers"].clear(), "not enough values"),
    "schedule a text": (lambda s: s["lr_schedulers"].__setitem__(0, "cosine"), "TypeError|state of the schedule"),
    "no place in it": (lambda s: s["lr_schedulers"][0].pop("last_epoch"), "the state of the schedule"),
    "no place but words": (lambda s: s["lr_schedulers"][0].update(last_epoch="x"), "last_epoch is 'x'"),
    "no callbacks": (lambda s: s["callbacks"].clear(), "KeyError"),
    "one callback less": (lambda s: s["callbacks"].pop("StabilityMonitor"), "KeyError"),
    "callback a list": (lambda s: s["callbacks"].update(EndOfStep=[1]), "TypeError"),
    "callback of others a list": (lambda s: s["callbacks"].update(Other=[1]), "callback Other is no dict"),
    "best in words": (lambda s: _of(s, "EndOfStep").update(best=("good", 2)), "could not convert string to float"),
    "metrics a list": (lambda s: _of(s, "EndOfStep").update(metrics=[1]), "AttributeError"),
    "steps in words": (lambda s: _of(s, "EndOfStep").update(regular=["x"]), "invalid literal for int"),
    "no seconds": (lambda s: _of(s, "ThroughputMonitor").pop("seconds"), "KeyError"),
    "tokens a list": (lambda s: _of(s, "ThroughputMonitor").update(tokens=[1]), "TypeError"),
    "losses in words": (lambda s: _of(s, "StabilityMonitor").update(last=["x"]), "could not convert"),
    "no losses": (lambda s: s.pop("losses"), "KeyError"),
    "losses of two": (lambda s: s.update(losses=[torch.zeros(2)]), "one element|a Tensor with 2"),
    "a weight less": (lambda s: s["state_dict"].pop("gpt.ln_f.weight"), "RuntimeError"),
    "weights of another shape": (lambda s: s["state_dict"].update({"gpt.ln_f.weight": torch.zeros(3)}), "RuntimeError"),
    "an average of texts": (lambda s: s.update(current_model_state={"a": "b"}), "Error"),
    "a mean in words": (lambda s: s.update(tail_average={"begin": 1, "count": "two"}), "invalid literal for int"),
    "a mean of no steps": (lambda s: s.update(tail_average={"begin": 1, "count": 0}), "the mean of 0 steps"),
    "data a list": (lambda s: s.update(TextDataModule=[1]), "TypeError"),
    "Lightning's version": (lambda s: s.update({"pytorch-lightning_version": "new"}), "InvalidVersion"),
    "no version": (lambda s: s.pop("pytorch-lightning_version"), "KeyError"),
}
REFUSED_AT_ONCE: dict[str, tuple[Callable[[Saved], Any], str]] = {  # as no checkpoint at all
    **{f"no {key}": (lambda s, key=key: s.pop(key), f"it has no {key}") for key in ("loops", "callbacks", "epoch")},
    "loops a list": (lambda s: s.update(loops=[1]), "it has no loops"),
    "optimizers a dict": (lambda s: s.update(optimizer_states={}), "it has no optimizer_states"),
    "a step in words": (lambda s: s.update(global_step="2"), "it has no global_step"),
    "a step below 0": (lambda s: s.update(global_step=-2), "its global_step is -2"),
}
COMMANDS = ("another shape", "best in words")


def test_each_is_refused_by_what_is_wrong(run: Path) -> None:
    """One run is built, and asked to go on from each checkpoint."""
    config = compose("train", ["resume=run", "budget.steps=3", "run_dir=run"], run=run)
    begun = start(config, Console(quiet=True))
    parts = build(begun, Console(quiet=True))
    require_state(begun, parts)
    assert begun.checkpoint is not None
    whole = torch.load(begun.checkpoint, weights_only=True)
    begun.checkpoint = Path("wrong.ckpt").absolute()
    for name, (damage, said) in WRONG.items():
        wrong = copy.deepcopy(whole)
        damage(wrong)
        torch.save(wrong, begun.checkpoint)
        with pytest.raises(
            UserError, match=f"resume=.*: this run cannot go on from it: .*({said}).*init_from="
        ) as found:
            require_state(begun, parts)
        assert "\n" not in str(found.value), name
    begun.release()


def test_what_has_no_loops_is_no_checkpoint(run: Path) -> None:
    from gptlab.runs.run_dir import RunDir

    path = run / "checkpoints/step-2.ckpt"
    whole = torch.load(path, weights_only=True)
    for damage, said in REFUSED_AT_ONCE.values():
        wrong = copy.deepcopy(whole)
        damage(wrong)
        path.unlink()
        save_by_hand(wrong, path)
        with pytest.raises(UserError, match=said):
            checkpoint_of(RunDir(run, path))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_run_stays_as_it_is(name: str, run: Path, ask: Ask) -> None:
    whole = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    WRONG[name][0](whole)
    (run / "checkpoints/last.ckpt").unlink()
    save_by_hand(whole, run / "checkpoints/last.ckpt")
    before = fingerprint(run)
    assert ask("train", "resume=run", "budget.steps=3") == 2
    assert fingerprint(run) == before
    assert ask("train", "resume=run/checkpoints/step-2.ckpt", "budget.steps=3") == 0


@pytest.mark.parametrize("name", registry.options("optimizer"))
def test_every_optimizer_goes_on(name: str, texts: str) -> None:
    """What it has saved is what is expected of it, also where parameters without memory do not tell what that is."""
    if name == "lion":
        pytest.importorskip("lion_pytorch")
    asked = [*tiny_overrides(texts), f"optimizer={name}", "run_dir=run", "logger=none", "sample_prompts=[]"]
    train(compose("train", [*asked, "budget.steps=1", "trainer.val_every_n_steps=9"]))
    assert train(compose("train", ["resume=run", "run_dir=run", "budget.steps=2"], run="run"))["steps"] == 2  # type: ignore[index]
