"""Mix the text that a model was trained on into the text that it goes on with."""

import dataclasses
from collections.abc import Mapping

from gptlab.data.text.sources import DataConfig, Mixture, TextData
from gptlab.errors import require
from gptlab.plugins import recorded_part
from gptlab.registry import name_of
from gptlab.runs.run_dir import RunDir


def with_replay(data: DataConfig, source: RunDir) -> Mixture:
    """Return a mixture of new text and, for `data.replay` of it, the text of a run; each is also scored by itself.

    Raises UserError where the run's text is not known, or one of the two is no text of one kind.
    """
    key, share = "data.replay", data.replay
    config = source.config()
    todo = "leave it out, or mix by hand: data=mixture"
    known = isinstance(config.get("data"), Mapping) and "data" in config.get("parts", {})
    require(known, key, share, f"{source.path} does not say what text it was trained on", todo)
    old = recorded_part("data", config["parts"]["data"], config["data"], config)
    for what, each in {"its text": old, "the new text": data}.items():
        require(isinstance(each, TextData), key, share, f"{what}, data={name_of(each)}, is none of one kind", todo)
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(DataConfig) if f.name != "replay"}
    parts = {"new": dataclasses.replace(data, replay=0.0), "old": old}
    return Mixture(parts=parts, weights={"new": 1 - share, "old": share}, by_part=True, **fields)
