"""Define the sweepers `zip` and `search`, here because Hydra takes plugins only from this package.

Every program that uses Hydra imports this file, so it imports almost nothing.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ZipSweeper(Sweeper):
    """A sweeper that takes the values of several keys in step: the first of each, the second of each, and so on.

    The keys in `product` are crossed with them, as all keys are by Hydra's own sweeper.
    """

    def __init__(self, product: Sequence[str] = ("seed",)) -> None:
        self.product = list(product)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # here: Hydra runs the file of this class once more when it looks for plugins, and an earlier class is then none
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        def split(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
            return [in_step(overrides, self.product)]

        self._basic = BasicSweeper(max_batch_size=None)
        self._basic.split_arguments = split  # type: ignore[method-assign]
        self._basic.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        return self._basic.sweep(arguments)


class SearchSweeper(Sweeper):
    """A sweeper that draws values by Optuna 5: gptlab.sweep.search, whose SearchConfig has the fields."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from gptlab.sweep.search import search

        search(self.fields, self._context, self._config, self._launcher, arguments)


def in_step(overrides: Sequence[Override], product: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job; raises UserError where keys have unequal numbers of values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from gptlab.errors import require

    zipped = {
        (key := each.get_key_element()): [f"{key}={value}" for value in each.sweep_string_iterator()]
        for each in overrides
        if each.is_discrete_sweep() and each.get_key_element() not in product
    }
    numbers = ", ".join(f"{key} has {len(values)}" for key, values in zipped.items())
    alike = len(set(map(len, zipped.values()))) <= 1
    todo = "give as many of each, or name what is crossed: hydra.sweeper.product=[seed,KEY]"
    require(alike, "hydra/sweeper", "zip", f"takes values in step, and {numbers}", todo)
    parser = OverridesParser.create()
    jobs: list[list[str]] = []
    for row in zip(*zipped.values(), strict=True) if zipped else [()]:
        chosen = dict(zip(zipped, parser.parse_overrides(list(row)), strict=True))
        own = [chosen.get(each.get_key_element(), each) for each in overrides]
        (batch,) = BasicSweeper.split_arguments(own, None)
        jobs += batch
    return jobs
