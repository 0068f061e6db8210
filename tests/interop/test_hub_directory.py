"""A Hugging Face directory in the place of a run: what it is scored, and that it is imported once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.export import export
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.training.config import TrainConfig
from gptlab.training.run import train


def test_a_directory_of_hugging_face_is_read_as_a_run(tiny: Callable[..., TrainConfig], texts: str) -> None:
    train(tiny("tokenizer=bpe", "tokenizer.vocab_size=300"))
    export(compose("export", ["run=run", "out=hf"]))
    text = ["data=text", f"data.files={texts}", "data.val_fraction=0.5"]
    own, theirs = (evaluate(compose("evaluate", [f"run={each}", *text])) for each in ("run", "hf"))
    assert theirs["loss"] == pytest.approx(own["loss"], abs=1e-6) and theirs["bytes"] == own["bytes"]
    written = [sample(compose("sample", [f"run={each}", "prompt=the cat", "json=true"])) for each in ("run", "hf")]
    assert written[0]["samples"][0]["ids"] == written[1]["samples"][0]["ids"]
    found = compare(compose("compare", ["a=run", "b=hf", *text, "resamples=100"]))
    assert found["difference"]["value"] == pytest.approx(0, abs=1e-6)
    assert len([each for each in Path("cache/imported").iterdir() if each.is_dir()]) == 1


def test_a_directory_that_is_not_complete() -> None:
    Path("hf").mkdir()
    Path("hf/config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^run: model_type=None: is not known here"):
        evaluate(compose("evaluate", ["run=hf"]))
    with pytest.raises(UserError, match=r"^a: model_type=None: is not known here"):
        compare(compose("compare", ["a=hf", "b=hf"]))
