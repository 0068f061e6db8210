"""Refuse a checkpoint that is whole but from which this run cannot go on exactly, before anything is written."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gptlab.data.batches.datamodule import KnownData
from gptlab.errors import UserError, one_line, reason
from gptlab.runs.checkpoint_file import read_checkpoint
from gptlab.training.build import Parts
from gptlab.training.lightning_internals import migrated, named_states
from gptlab.training.module import GPTModule
from gptlab.training.resume import read_older_checkpoint
from gptlab.training.start import Start

State = dict[str, Any]
OF_SCHEDULE = ("last_epoch", "_step_count", "base_lrs", "_last_lr", "lr_lambdas")
ADVICE = "take another checkpoint of the run, or begin with its weights alone: init_from="


def require_state(begun: Start, parts: Parts) -> None:
    """Raise UserError unless the checkpoint of a resumed run has what each part of this run needs to go on.

    Weights and optimizer are compared with those that were built, by names and shapes; our callbacks take their state
    once already, and take it again when training begins.
    """
    path = begun.checkpoint
    if path is None:
        return
    try:
        saved = migrated(read_checkpoint(path), path)
        saved["callbacks"] = dict(saved["callbacks"])
        read_older_checkpoint(saved, parts.datamodule.tokens_per_step)
        parts.module.complete(saved)
        _require_weights(parts.module, saved)
        _require_optimizer(parts.module, saved)
        _require_others(parts, saved)
    except UserError:  # such as other data
        raise
    except Exception as error:  # whatever wrong values make of the code that reads them
        why = f"this run cannot go on from it: {_told(error)}"
        raise UserError("resume", path, one_line(why), f"{ADVICE}{path}") from error


def _told(error: Exception) -> str:
    return reason(error) if type(error) is ValueError else f"{type(error).__name__} ({reason(error)})"


def _require_weights(module: GPTModule, saved: State) -> None:
    built = {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    averaged = ("current_model_state",) if saved.get("current_model_state") is not None else ()
    for key in ("state_dict", *averaged):  # where weights are averaged, the trained ones are in the second
        weights: State = saved[key]
        if {name: getattr(value, "shape", None) for name, value in weights.items()} != built:
            module.load_state_dict(weights)  # a model of one's own may know older names
    if tail := saved.get("tail_average"):
        begin, count = int(tail["begin"]), int(tail["count"])
        if begin < 0 or count < 1:
            raise ValueError(f"it has the mean of {count} steps behind step {begin}")
    for loss in saved["losses"]:
        float(loss)


def _require_optimizer(module: GPTModule, saved: State) -> None:
    """Raise ValueError unless the optimizer and the schedule of the run are those of a checkpoint."""
    (state,), (schedule,) = saved["optimizer_states"], saved["lr_schedulers"]
    optimizer = module.optimizer.build(module.gpt)
    built, groups = optimizer.param_groups, state["param_groups"]
    sizes = [len(group["params"]) for group in built]
    _same("the number of parameters in each group", sizes, [len(group["params"]) for group in groups])
    kept, without = _state_after_a_step(module), 0
    for number, (group, found) in enumerate(zip(built, groups, strict=True)):
        for parameter, place in zip(group["params"], found["params"], strict=True):
            expected = kept.get((number, parameter.shape), {})
            if expected and place not in state["state"]:
                without += 1
            elif expected:
                _require_fit(f"the optimizer's state of parameter {place}", expected, state["state"][place])
    usual = module.on_nan == "stop" and saved.get("model_option", "gpt") == "gpt"  # all parameters move in each step
    if without and usual and saved["global_step"]:
        raise ValueError(f"it has no optimizer state for {without} of {sum(sizes)} parameters")
    settings = [{key: value for key, value in group.items() if key != "params"} for group in built]
    optimizer.load_state_dict({"state": {}, "param_groups": groups})  # completes those of an earlier torch
    for expected, group in zip(settings, optimizer.param_groups, strict=True):
        _require_fit("the settings of the optimizer", expected, {key: group[key] for key in expected if key in group})
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict()
    known = {key: schedule[key] for key in OF_SCHEDULE if key in schedule}
    _require_fit("the state of the schedule", {key: rates[key] for key in OF_SCHEDULE}, known)


def _state_after_a_step(module: GPTModule) -> dict[tuple[int, torch.Size], State]:
    """Return the state that the run's optimizer keeps of a parameter, by its group and shape; {} if that is not known.

    A step is done with parameters of no memory, or, where an optimizer has to read them, with one of each shape.
    """
    for device in ("meta", "cpu"):
        optimizer: Optimizer = module.optimizer.build(module.gpt)
        found: dict[tuple[int, torch.Size], Tensor] = {}
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                found[number, parameter.shape] = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
            group["params"] = [twin for (of, _), twin in found.items() if of == number]
            group |= {key: False for key in ("fused", "foreach") if key in group}
        for twin in found.values():
            twin.grad = torch.zeros_like(twin)
        try:
            optimizer.step()
        except Exception:  # of an optimizer from another package, too
            continue
        return {key: dict(optimizer.state[twin]) for key, twin in found.items()}
    return {}


def _require_others(parts: Parts, saved: State) -> None:
    """Raise an error unless the callbacks, the data module and the precision of a run can take their state."""
    end = parts.end_of_step
    for callback in (end.throughput, end.stability, end):
        callback.load_state_dict(saved["callbacks"][callback.state_key])
    for name, state in saved["callbacks"].items():
        if not isinstance(state, dict):
            raise ValueError(f"the state of the callback {name} is no dict")
    if isinstance(parts.datamodule, KnownData) and type(parts.datamodule).__qualname__ in saved:
        parts.datamodule.load_state_dict(saved[type(parts.datamodule).__qualname__])
    for name, expected in named_states(parts.trainer).items():
        if name in saved:
            _require_fit(f"the state of {name}", expected, saved[name])


def _same(what: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise ValueError(f"{what} is {found} in it, and {expected} here")


def _require_fit(what: str, expected: State, found: Any) -> None:
    """Raise ValueError unless a dict has the keys that are expected, each with a value of that kind and shape."""
    if not isinstance(found, dict):
        raise ValueError(f"{what} is no dict")
    _same(f"{what}: its keys", sorted(map(str, expected)), sorted(map(str, found)))
    for key, value in expected.items():
        if not _fits(value, found[key]):
            raise ValueError(f"{what}: {key} is {_kind(found[key])} in it, and {_kind(value)} here")


def _fits(expected: Any, found: Any) -> bool:
    if expected is None:  # a choice that is left to torch
        return not isinstance(found, str)
    if isinstance(expected, bool):
        return found is None or isinstance(found, bool)
    if _is_number(expected):
        return _is_number(found)
    if isinstance(expected, Tensor):
        alike = isinstance(found, Tensor) and found.is_floating_point() == expected.is_floating_point()
        return alike and found.shape == expected.shape
    if isinstance(expected, list | tuple):
        alike = isinstance(found, list | tuple) and len(found) == len(expected)
        return alike and all(map(_fits, expected, found))
    return isinstance(found, type(expected))


def _is_number(value: Any) -> bool:
    """Tell whether a value is a number, also one in a tensor: optimizers keep the count of steps in either."""
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r:.60}" if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
