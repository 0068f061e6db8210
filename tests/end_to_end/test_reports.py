"""A sweep, its report and a comparison, as a user types them."""

import json
from pathlib import Path

import pytest

from gptlab.files import followed
from tests.conftest import tiny_overrides
from tests.forked import gptlab

pytestmark = pytest.mark.slow


def test_sweep_report_compare(texts: str) -> None:
    swept = ["data.val_fraction=0.3", "optimizer.lr=1e-3,1e-2", "seed=1,2", "json=true"]
    runs = json.loads(gptlab("train", "-m", *tiny_overrides(texts), *swept).stdout)["runs"]
    assert len({r["val_loss"] for r in runs}) == 4
    folders = {Path(r["run_dir"]) for r in runs}
    assert len(folders) == 4 and len({f.parent for f in folders}) == 1
    for folder in folders:
        assert (folder / "summary.json").exists() and len(folder.name) < 200
    assert followed(Path("outputs/latest")).resolve() == Path(runs[-1]["run_dir"])

    reported = gptlab("report", "json=true")
    answer = json.loads(reported.stdout)
    asked = [(row["optimizer.lr"], row["seed"]) for row in answer["runs"]]
    assert asked in ([(a, 1), (a, 2), (b, 1), (b, 2)] for a, b in ((0.001, 0.01), (0.01, 0.001)))
    assert "± s.e. (seeds)" in reported.stderr and (Path(answer["out"]) / "report.html").is_file()

    sweep = Path(answer["runs"][0]["path"]).parent.relative_to(Path.cwd().resolve())
    compared = gptlab("compare", f"a=[{sweep}/0-*,{sweep}/1-*]", f"b=[{sweep}/2-*,{sweep}/3-*]", "json=true")
    result = json.loads(compared.stdout)
    means = {row["optimizer.lr"]: row for row in answer["runs"]}
    assert result["perplexity_refused"] is None and result["seed_test"]["p"] <= 1
    assert (result["difference"]["value"] < 0) == (means[0.01]["mean_val_loss"] < means[0.001]["mean_val_loss"])
