"""Begin a run with the weights of another one, whichever tasks the two have."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gptlab.errors import require
from gptlab.model.config import ModelConfig, build_model
from gptlab.model.heads import parameters_beside, trunk_of
from gptlab.model.meta_device import on_meta
from gptlab.registry import option_of
from gptlab.runs.adapted import Base, weights_sha256
from gptlab.runs.checkpoint_file import read_checkpoint
from gptlab.runs.run_dir import RunDir, located
from gptlab.tasks.base import Task
from gptlab.tasks.saved import task_of


@dataclass
class Initial:
    """The model of another run, without the head of its task, and what there is of that."""

    run: RunDir
    task: Task
    gpt: Any  # as the head of its task has left it
    head: dict[str, nn.Parameter]  # by their names in the model with the head

    @property
    def config(self) -> ModelConfig:
        config: ModelConfig = self.gpt.config
        return config

    @property
    def preset(self) -> str | None:
        """The preset that the model of the other run was made from, where it says so."""
        found = self.run.config().get("preset")
        return found if isinstance(found, str) else None

    def with_head(self, task: Task) -> tuple[nn.Module, list[str]]:
        """Return the model with the head of a task, and the names of those weights that are new.

        The head has the weights of the other run's where the task is the same kind, and a new one begins as the task
        makes it. Raises UserError if the other run's model lacks some of its own weights, or its head has
        another shape.
        """
        gpt, new = whole(self.gpt, self.run)
        model = task.head(gpt)
        own = parameters_beside(model)
        if option_of(task) == option_of(self.task):
            shapes = [{name: tuple(p.shape) for name, p in each.items()} for each in (own, self.head)]
            why, todo = f"its head has {shapes[1]}, and this task's has {shapes[0]}", "give the settings of its task"
            require(shapes[0] == shapes[1], "init_from", self.run.path, why, todo)
            with torch.no_grad():
                for name, value in self.head.items():
                    own[name].copy_(value)
            return model, []
        kept = {name for name, _ in model.named_parameters()}
        return model, [*(name for name in new if any(each.endswith(name) for each in kept)), *own]

    def base(self) -> Base:
        """Return what an adapter that is trained on this model has to know of it.

        Raises UserError where the model is an adapter with a base of its own.
        """
        whole = "adapter" not in read_checkpoint(self.run.checkpoint, "meta")
        why, todo = "is an adapter of another model", f"merge it first: gptlab export run={self.run.path} out=DIR"
        require(whole, "init_from", self.run.path, why, todo)
        return Base(located(self.run), weights_sha256(self.gpt.state_dict()))


def initial(run: RunDir) -> Initial:
    """Read the model of a run."""
    task = task_of(run.config())
    model: Any = run.load(task.head)[0].train()
    return Initial(run, task, trunk_of(model), parameters_beside(model))


def whole(gpt: Any, run: RunDir) -> tuple[Any, list[str]]:
    """Return a model with its own head, and the names of weights that are new: a task may have taken the
    head away."""
    with on_meta():
        names = set(build_model(gpt.config).state_dict())
    weights = gpt.state_dict()
    if set(weights) == names:
        return gpt, []
    missing = names - set(weights)
    why, todo = f"its model has no {', '.join(sorted(missing - {'lm_head.weight'}))}", "take the run that it began with"
    require(missing <= {"lm_head.weight"}, "init_from", run.path, why, todo)
    fresh = build_model(gpt.config).train()
    fresh.load_state_dict({name: value for name, value in weights.items() if name in names}, strict=False)
    return fresh, [] if gpt.config.tied else ["lm_head.weight"]
