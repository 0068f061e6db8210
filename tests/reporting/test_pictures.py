import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptlab.errors import UserError
from gptlab.reporting import pictures
from gptlab.reporting.rows import Report, tabulate
from gptlab.runs.reader import find_runs
from tests.written_runs import MakeRun


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the figures that are drawn, before they become PNG."""
    found: list[Any] = []
    to_png = pictures.png

    def keep(figure: Any) -> bytes:
        found.append(figure)
        return to_png(figure)

    monkeypatch.setattr(pictures, "png", keep)
    return found


def report(make_run: MakeRun, runs: int = 6) -> Report:
    for i in range(runs):
        lr = [0.1, 0.3, 1.0][i // 2 % 3]
        make_run(f"{i}", 2.0 + i, seed=i % 2, optimizer__lr=lr, name=["x", "y"][i // 6], model__n_layer=1 + i // 6)
    return tabulate(find_runs(["runs"]))


@pytest.mark.slow
def test_curves_over_four_axes(make_run: MakeRun, figures: list[Any]) -> None:
    from matplotlib.image import imread

    png = pictures.curves(report(make_run))
    pixels = imread(io.BytesIO(png))
    assert pixels.shape[0] > 1000 and pixels.shape[1] > 1400
    for colour in pictures.COLOURS[:3]:  # each group's is in the picture
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (np.abs(pixels[..., :3] - rgb).max(-1) < 0.01).sum() > 100
    panels = figures[0].axes
    assert [panel.get_xlabel() for panel in panels] == ["steps", "tokens", "FLOPs", "training time (s)"]
    for panel, last in zip(panels, [10, 1280, 1280_000, 3.75], strict=True):
        assert len(panel.lines) == 12  # a run's held-out and training loss
        assert {float(line.get_xdata()[-1]) for line in panel.lines} == {last}
        assert panel.get_ylabel() == "loss (nats per token)"
    finals = sorted(float(line.get_ydata()[-1]) for line in panels[0].lines if line.get_linewidth() > 1)
    assert finals == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    names = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert names == [f"lr={lr} (2 seeds)" for lr in ("0.1", "0.3", "1")] + ["thin: in training, thick: held-out"]


def test_many_groups_share_grey(make_run: MakeRun, figures: list[Any]) -> None:
    for i in range(30):
        make_run(f"{i}", 2.0 + i, optimizer__lr=float(i))
    pictures.curves(tabulate(find_runs(["runs"])))
    thick = [line for line in figures[0].axes[0].lines if line.get_linewidth() > 1]
    assert sum(line.get_color() == pictures.GREY for line in thick) == 22
    assert len({line.get_color() for line in thick}) == 9
    assert [t.get_text() for t in figures[0].legends[0].get_texts()][8] == "22 others"


def test_other_tokenizers_leave_only_bits_per_byte(make_run: MakeRun, figures: list[Any]) -> None:
    make_run("a", tokenizer="one")
    make_run("b", tokenizer="two", seed=2)
    pictures.curves(tabulate(find_runs(["runs"])))
    assert len(figures[0].axes[0].lines) == 2 and figures[0].axes[0].get_ylabel() == "bits per byte"


def test_a_run_that_has_logged_nothing(make_run: MakeRun, figures: list[Any]) -> None:
    make_run("a", status="running", rows=[])
    found = tabulate(find_runs(["runs"]))
    pictures.curves(found)
    assert [panel.texts[0].get_text() for panel in figures[0].axes] == ["nothing logged"] * 4
    assert pictures.best_so_far(found) is None and pictures.swept(found) is None


def test_best_so_far_in_the_order_of_starting(make_run: MakeRun, figures: list[Any], tmp_path: Path) -> None:
    """The order is that of the times, not that of the paths."""
    for i, loss in enumerate([3.0, 4.0, 2.5, 2.75]):
        make_run(f"{8 + i}", loss, optimizer__lr=loss)
    make_run("12", 0.5, "failed")
    for number, started in {8: 300.0, 9: 400.0, 10: 100.0, 11: 200.0}.items():
        path = tmp_path / f"runs/{number}/summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"started": started}))
    assert pictures.best_so_far(tabulate(find_runs(["runs"])))
    (panel,) = figures[0].axes
    assert list(panel.lines[0].get_ydata()) == [2.5, 2.5, 2.5, 2.5]
    assert [list(point) for point in panel.collections[0].get_offsets()] == [[1, 2.5], [2, 2.75], [3, 3], [4, 4]]
    assert panel.get_title() == "lowest: 2.5000 with lr=2.5"


def test_final_loss_against_what_was_varied(make_run: MakeRun, figures: list[Any]) -> None:
    found = report(make_run, 12)
    assert list(found.keys) == ["optimizer.lr", "seed", "model"] and found.varied == ["optimizer.lr", "seed"]
    assert pictures.swept(found)
    (rates,) = figures[0].axes
    assert rates.get_xscale() == "log" and rates.get_xlabel() == "optimizer.lr"
    lines = [container.lines[0] for container in rates.containers]
    assert [list(line.get_xdata()) for line in lines] == [[0.1, 0.3, 1.0]] * 2
    assert [list(line.get_ydata()) for line in lines] == [[2.5, 4.5, 6.5], [8.5, 10.5, 12.5]]  # means over two seeds
    (bars,) = rates.containers[0].lines[2]
    assert bars.get_segments()[0][:, 1].tolist() == [2.0, 3.0]  # mean 2.5, standard error 0.5
    assert [text.get_text() for text in rates.get_legend().get_texts()] == ["x", "y"]


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"^pictures=true: needs matplotlib; pip install 'gptlab\[report\]'"):
        pictures.require_matplotlib()


@pytest.mark.parametrize(("longest", "unit"), [(100, "s"), (1000, "min"), (10_000, "h")])
def test_time_in_a_unit_that_can_be_read(longest: float, unit: str) -> None:
    seconds, name = pictures._clock(longest)
    assert name == f"training time ({unit})" and 1 < longest / seconds < 240


def test_the_same_runs_give_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    found = report(make_run)
    assert pictures.swept(found) == pictures.swept(found)


def test_pruned_trials_are_crosses(make_run: MakeRun, figures: list[Any]) -> None:
    pytest.importorskip("matplotlib")
    for i in range(5):
        make_run(f"{i}", 2.0 + i, "pruned" if i > 2 else "finished", optimizer__lr=0.1 * (i + 1), name="x")
    assert pictures.swept(tabulate(find_runs(["runs"])))
    (crosses,) = [line for line in figures[-1].axes[0].lines if line.get_label() == "pruned"]
    assert crosses.get_marker() == "x" and list(crosses.get_xydata().ravel()) == pytest.approx([0.4, 5.0, 0.5, 6.0])
