"""Build the model of a checkpoint where another package has registered it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gptlab.errors import UserError
from gptlab.model.config import build_model
from gptlab.model.meta_device import on_meta
from gptlab.plugins import recorded_option


def own_model(
    option: str,
    settings: Mapping[str, Any],
    weights: Mapping[str, Any],
    head: Callable[[Any], Any],
    checkpoint: Path,
    config: Mapping[str, Any],
) -> Any:
    """Return the model of an option and its settings, with a head and these weights.

    Raises UserError where the option is not enabled here, and says by the run's config (`read_config`) which plugin has
    it; or where the model as it is here does not take the settings or the weights.
    """
    named = option if option.isidentifier() else ascii(option)[:60]
    kind = recorded_option("model", option, config, named, f"{checkpoint}: ")

    def build() -> Any:
        return head(build_model(kind(**settings)))

    try:
        try:
            with on_meta():
                empty = build()
        except RuntimeError:  # it computes with its weights when it is made
            empty = None
        if empty is not None:
            empty.load_state_dict(weights, assign=True)  # sizes that do not fit are refused before they take memory
        model = build()
        model.load_state_dict(weights)
    except Exception as error:  # whatever its code raises
        told = " ".join(str(error).split())[:300]
        why = f"as it is here it does not take what is in {checkpoint} ({type(error).__name__}: {told})"
        raise UserError("model", named, why, "enable the version of it that made the run") from error
    return model
