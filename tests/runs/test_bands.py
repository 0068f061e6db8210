"""Replication bands: intervals that hold as often as they say, found for runs of a recipe and for no others."""

import dataclasses
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gptlab.config import compose
from gptlab.evaluation.statistics import prediction_interval
from gptlab.files import conf_dir
from gptlab.runs.bands import NAMES, Band, Validation, deciding, sentence
from gptlab.runs.config_file import record
from gptlab.runs.reader import RunRecord

SHIPPED = sorted((conf_dir() / "experiment").glob(NAMES))


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
def test_a_new_run_lies_inside_as_often_as_is_said(seeds: int) -> None:
    """Over 20,000 simulated recipes: 95% of new runs, whatever the number of seeds; without Student's t it would be less."""
    rng = np.random.default_rng(seeds)
    runs = rng.normal(1.95, 0.013, (20_000, seeds + 1))
    inside = 0
    for *values, new in runs.tolist():
        low, high = prediction_interval(values)
        inside += low <= new <= high
    assert abs(inside / len(runs) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(runs))
    apart = abs(runs[:, -1] - runs[:, :-1].mean(1)) / runs[:, :-1].std(1, ddof=1)
    assert (apart <= 1.96).mean() < 0.92


def test_the_interval_is_that_of_the_books() -> None:
    """As the exact t-test of one against n would have it: at its ends the test of the new run has p = 0.05."""
    values = [1.947, 1.952, 1.939, 1.961, 1.944]
    for end in prediction_interval(values):
        t = (end - np.mean(values)) / (np.std(values, ddof=1) * np.sqrt(1 + 1 / 5))
        assert abs(2 * stats.t.sf(abs(t), 4) - 0.05) < 1e-12


def made(**changes: Any) -> Band:
    config = record(compose("train", []))
    validations = [
        Validation(at, [2.0, 2.1], 2.05, 0.07, low, high) for at, low, high in ((450, 2.2, 2.6), (900, 1.9, 2.2))
    ]
    fields: dict[str, Any] = {"recipe": "", "text": "a text", "data_sha256": "d", "tokenizer_sha256": "t"}
    fields |= {
        "parameters": 7,
        "level": 0.95,
        "seeds": [1, 2],
        "validations": validations,
        "made": {},
        "config": config,
    }
    return Band(**fields | changes)


def run_of(*overrides: str, **summary: Any) -> RunRecord:
    known = {"data_hash": "d", "tokenizer_hash": "t", "parameters": 7}
    return RunRecord(Path("run"), "run", record(compose("train", list(overrides))), known | summary)


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        ([], True),
        (["seed=4", "name=mine", "logger=none", "trainer.val_every_n_steps=7", "checkpoint.keep_last=9"], True),
        (["trainer=cpu", "data.micro_batch_size=2", "data.num_workers=1", "compile=true", "loss=chunked"], True),
        (["data=text", "data.files=[a]"], True),  # the same text by its hash
        (["optimizer.lr=1e-3"], False),
        (["data=text", "data.files=[a]", "data.stride=64"], False),
        (["data.val_fraction=0.2"], False),
        (["trainer.precision=bf16-true"], False),
        (["budget.steps=901"], False),
        (["model=micro"], False),
    ],
)
def test_a_band_is_of_runs_that_differ_in_the_seed_and_in_places(overrides: list[str], same: bool) -> None:
    assert made().is_of(run_of(*overrides)) is same


@pytest.mark.parametrize("other", [{"data_hash": "e"}, {"tokenizer_hash": "e"}, {"parameters": 8}])
def test_a_band_is_of_one_text_tokenizer_and_size(other: dict[str, Any]) -> None:
    assert not made().is_of(run_of(**other))


def test_the_last_validation_decides() -> None:
    judged = made().judge({450: 2.7, 900: 2.1, 7: 9.0})
    assert judged is not None
    assert judged["inside"] and (judged["step"], judged["val_bits_per_byte"], judged["low"]) == (900, 2.1, 1.9)
    assert [(each["step"], each["inside"]) for each in judged["validations"]] == [(450, False), (900, True)]
    said = "replication: val 2.100 bits/byte lies inside the 95% band of the default run on a text (1.900 to 2.200, two seeds)"
    assert sentence(judged) == f"{said}; of 1 validations before, 0 do"
    outside = made(recipe="experiment=modern_char", seeds=list(range(12))).judge({900: 2.201})
    assert outside is not None
    assert sentence(outside).startswith(
        "replication: val 2.201 bits/byte lies outside the 95% band of experiment=modern_char on"
    )
    assert sentence(outside).endswith("(1.900 to 2.200, 12 seeds)")
    assert made().judge({450: 2.3}) is None
    diverged = made().judge({900: math.nan})
    assert diverged is not None
    assert not diverged["inside"] and "null" in json.dumps(diverged, allow_nan=False)
    assert "val - bits/byte lies outside" in sentence(diverged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: "[]",
        lambda text: text.replace('"low"', '"lower"', 1),
        lambda text: text.replace("1.9", "NaN"),
        lambda text: text.replace('"level": 0.95', '"level": "most"'),
        lambda text: text.replace('"recipe": ""', '"recipe": 3'),
        lambda text: text.replace('"seeds"', '"seed"'),
        lambda text: text.replace('"validations": [', '"validations": [], "was": ['),
        lambda text: text.replace('"parts": {', '"parts": 3, "was": {'),
        lambda text: text.replace("1.9", "1" + 400 * "0"),
        lambda text: text.replace("1.9", "true"),
        lambda text: text.replace('"level": 0.95', '"level": 95.0'),
        lambda text: text.replace('"level": 0.95', '"level": NaN'),
        lambda text: text.replace('"recipe": ""', r'"recipe": "\u001b[2J"'),
        lambda text: text.replace('"step": 900', '"step": [900]'),
        lambda text: text.replace('"step": 900', '"step": 450'),
        lambda text: text.replace('"step": 900', '"step": 9'),
    ],
)
def test_what_is_no_band_is_passed_over(damage: Callable[[str], str], tmp_path: Path) -> None:
    file = tmp_path / "a.band.json"
    file.write_text(made().as_json())
    assert Band.read(file) == made()
    damaged = damage(made().as_json())
    assert damaged != made().as_json()
    file.write_text(damaged)
    assert Band.read(file) is None


def test_a_band_has_two_seeds_or_more(tmp_path: Path) -> None:
    for seeds in ([], [1]):
        (tmp_path / "a.band.json").write_text(made(seeds=seeds).as_json())
        assert Band.read(tmp_path / "a.band.json") is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_band_is_of_its_recipe_as_it_is_now(path: Path) -> None:
    """A recipe that is changed needs a new band; every figure follows from the values of its seeds."""
    band = Band.read(path)
    assert band is not None
    composed = RunRecord(
        Path(), "", record(compose("train", shlex.split(band.recipe))), {"data_hash": band.data_sha256}
    )
    assert deciding(composed) == band.settings()
    assert band.validations[-1].step == band.config["budget"]["steps"]
    for at in band.validations:
        values = np.array(at.values)
        assert len(values) == len(set(band.seeds)) == 5
        half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / len(values))
        expected = [values.mean(), values.std(ddof=1), values.mean() - half, values.mean() + half]
        np.testing.assert_allclose([at.mean, at.deviation, at.low, at.high], expected, rtol=1e-12)
    assert "/" not in json.dumps(dataclasses.asdict(band)["config"])  # nor any place of a machine
