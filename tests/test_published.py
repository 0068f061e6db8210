"""Tables of the docs are what the data beside them say."""

import json
from pathlib import Path

import pytest

from gptlab.files import conf_dir
from gptlab.runs.bands import NAMES, Band
from gptlab.sweep.ledger import Ledger, Trial

ROOT = Path(__file__).resolve().parents[1]
BANDS = sorted((conf_dir() / "experiment").glob(NAMES))
TEN_IDEAS = ROOT / "docs/ten_ideas"


def row_of_band(band: Band) -> str:
    last, recipe = band.validations[-1], f"`{band.recipe}`" if band.recipe else "the default run"
    middle = band.validations[len(band.validations) // 2 - 1]
    cells = [recipe, band.text, f"{band.parameters:,}", f"{middle.mean:.3f} at step {middle.step:,}"]
    cells += [f"{last.mean:.4f} at step {last.step:,}", f"{last.deviation:.4f}", f"{last.low:.3f} to {last.high:.3f}"]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("path", BANDS, ids=lambda path: path.name)
def test_the_table_of_bands(path: Path) -> None:
    band = Band.read(path)
    assert band is not None
    assert row_of_band(band) in (ROOT / "docs/training.md").read_text()


def row_of_trial(trial: Trial) -> str:
    assert trial.verdict is not None
    found, (idea,) = trial.verdict, trial.change["told"]
    reports = [sum(trial.scores(side, "reports")) / len(trial.pairs()) for side in ("base", "changed")]
    cells = [f"`{idea}`", found["verdict"], str(len(trial.pairs())), f"{found['difference']:+.4f}"]
    cells += [f"{reports[1] - reports[0]:+.4f}", f"{found['ratio']:.2g}"]
    return f"| {' | '.join(cells)} |"


def test_figures_past_the_context() -> None:
    page, results = (ROOT / "docs/sampling.md").read_text(encoding="utf-8"), ROOT / "benchmarks/results"
    losses, pretrained, steps = (
        json.loads((results / f"{name}-2-cores.json").read_text(encoding="utf-8"))["workloads"]
        for name in ("overflow", "overflow_pretrained", "past_context")
    )
    for each in losses:
        changes = [f"{ring['change']:+.4f} ± {ring['interval']:.4f}" for ring in each["ring"].values()]
        cells = [f"`{each['positions']}`", f"{each['crop']:.4f}", *changes]
        assert f"| {' | '.join(cells)} |" in page
    (large,) = pretrained
    found = {sinks: f"{ring['loss']:.2f}" for sinks, ring in large["ring"].items()}
    assert (
        f"on {large['tokens']} tokens of a story: {large['crop']:.2f} nats with `crop`, {found['0']} with `ring`, "
        f"{found['1']} with `sinks=1` and {found['4']} with `sinks=4`" in page
    )
    one, eight = (
        each["candidates"]["crop"]["step_ms"]["median"] / each["candidates"]["ring"]["step_ms"]["median"]
        for each in steps
    )
    assert (
        f"`crop` takes {one:.1f} times as long for a token of one text as `ring`, and {eight:.0f} times for eight"
        in page
    )


def test_the_table_of_ten_ideas() -> None:
    """All trials of the ledger, in its order and no others; its lines are as they were written, by their hashes."""
    ledger, text = Ledger(TEN_IDEAS), (ROOT / "docs/comparing.md").read_text()
    rows = [row_of_trial(trial) for trial in ledger.trials]
    assert len(rows) == 10 and "\n".join(rows) in text
    section = text.partition("### Ten ideas")[2]
    assert section.count("\n| `") == 10
    assert f"{len(ledger.kept)} of 10 are kept" in section
