"""Define the sweeper `hydra/sweeper=zip`, here because Hydra takes plugins only from this package.

Every program that uses Hydra imports this file, so it imports almost nothing.
"""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override


class ZipSweeper(BasicSweeper):
    """A sweeper that takes the values of several keys in step: the first of each, the second of each, and so on.

    The keys in `product` are crossed with them, as all keys are by Hydra's own sweeper.
    """

    def __init__(self, product: Sequence[str] = ("seed",)) -> None:
        super().__init__(max_batch_size=None)
        self.product = list(product)

    def split_arguments(  # type: ignore[override]  # Hydra calls it by the object
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Return the overrides of each job, as one batch; raises UserError where numbers of values differ."""
        from gptlab.errors import require

        zipped = {
            (key := each.get_key_element()): [f"{key}={value}" for value in each.sweep_string_iterator()]
            for each in overrides
            if each.is_discrete_sweep() and each.get_key_element() not in self.product
        }
        numbers = ", ".join(f"{key} has {len(values)}" for key, values in zipped.items())
        alike = len(set(map(len, zipped.values()))) <= 1
        todo = "give as many of each, or name what is crossed: hydra.sweeper.product=[seed,KEY]"
        require(alike, "hydra/sweeper", "zip", f"takes values in step, and {numbers}", todo)
        parser = OverridesParser.create()
        jobs = []
        for row in zip(*zipped.values(), strict=True) if zipped else [()]:
            chosen = dict(zip(zipped, parser.parse_overrides(list(row)), strict=True))
            (batch,) = super().split_arguments([chosen.get(each.get_key_element(), each) for each in overrides], None)
            jobs += batch
        return [jobs]
