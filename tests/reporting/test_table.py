import csv
import io
import json

import pytest
from rich.cells import cell_len
from rich.console import Console

from gptlab.reporting import table
from gptlab.reporting.rows import Report, tabulate
from gptlab.runs.reader import find_runs
from tests.written_runs import MakeRun


@pytest.fixture
def report(make_run: MakeRun) -> Report:
    for i, (lr, loss) in enumerate([(0.1, 2.5), (0.1, 2.75), (0.3, 2.0), (0.3, None)]):
        rows = ["10,nan,512,nan,nan"] if loss is None else None
        make_run(f"{i}-optimizer.lr={lr},a-long-name|with-a-bar", loss, seed=i, optimizer__lr=lr, rows=rows)
    return tabulate(find_runs(["runs"]))


def test_markdown(report: Report) -> None:
    lines = table.markdown(report).splitlines()
    assert lines[0] == (
        "| run | val loss ± s.e. (seeds) | steps | tokens | FLOPs | time | val loss | perplexity | bits/byte | tokens/s "
        "| status | lr | seed |"
    )
    assert lines[2] == (
        "| lr=0.3, seed=2 | 2.0000 (1) | 10 | 1,280 | 1.28e+06 | 0:04 | 2.0000 | 7.40 | 1.0000 | 512 | finished | 0.3 | 2 |"
    )
    assert lines[3].startswith("| lr=0.3, seed=3 |  | 10 |") and "| not finite | 7.40 | not finite | 512 |" in lines[3]
    assert lines[4].startswith("| lr=0.1, seed=0 | 2.6250 ± 0.1250 (2) |")
    assert lines[7] == "All have the same budget: steps=10."


def test_csv_has_everything_unrounded(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(table.comma_separated(report))))
    assert [row["optimizer.lr"] for row in rows] == ["0.3", "0.3", "0.1", "0.1"]
    assert [row["val_loss"] for row in rows] == ["2.0", "", "2.5", "2.75"]
    assert [row["standard_error_val_loss"] for row in rows] == ["", "", "0.125", "0.125"]
    assert [row["flops"] for row in rows] == ["1280000.0"] * 4


def test_plain_values_are_json(report: Report) -> None:
    text = json.dumps(table.records(report), allow_nan=False)
    assert json.loads(text)[2]["mean_val_loss"] == 2.625


def printed(report: Report, width: int, terminal: bool = True) -> list[str]:
    out = io.StringIO()
    table.show(Console(file=out, width=width, force_terminal=terminal, color_system=None), report)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_a_terminal_s_table_fits_and_has_the_results_first(report: Report, width: int) -> None:
    lines = printed(report, width)
    rows = [line.split() for line in lines if "lr=" in line]
    assert all(cell_len(line) <= width for line in lines[: lines.index("All have the same budget: steps=10.")])
    assert rows[0][:3] == ["lr=0.3", "2.0000", "(1)"] and rows[1][:5] == ["lr=0.1", "2.6250", "±", "0.1250", "(2)"]
    assert len(rows) == 2 and ("not finite" in "\n".join(lines))  # a run that diverged is never left unsaid


def test_columns_that_are_the_same_everywhere_or_do_not_matter_are_left_out(make_run: MakeRun) -> None:
    for i, loss in enumerate([2.0, 3.0, 4.0]):
        make_run(f"{i}", loss, optimizer__lr=i / 10, callbacks={"norms": i == 1}, trainer={"val_every_n_steps": i})
    found = tabulate(find_runs(["runs"]))
    heads = " ".join(printed(found, 200)[:3])
    assert "bits/byte" in heads and not {"steps", "tokens", "status", "norms", "val_every_n_steps"} & set(heads.split())
    assert list(found.keys) == ["optimizer.lr"]


def test_many_settings_do_not_crowd_out_the_results(make_run: MakeRun) -> None:
    for i in range(3):
        more = {f"data__{key * 5}": f"{key}{i}" * 5 for key in "abcdefgh"}
        make_run(f"outputs-{i}", 2.0 + i, name=f"experiment_{i}", optimizer__lr=i / 7, **more)
    found = tabulate(find_runs(["runs"]))
    lines = printed(found, 80)
    assert all(cell_len(line) <= 80 for line in lines[:8]) and len(found.keys) == 10
    assert [line.split()[:2] for line in lines if "experiment_" in line] == [
        [f"experiment_{i}", f"{2 + i}.0000"] for i in range(3)
    ]
    assert any("report.csv" in line for line in lines)


def test_a_file_gets_the_whole_table(report: Report) -> None:
    heads = " ".join(printed(report, 20, terminal=False)[:3])
    assert "perplexity" not in heads and "bits/byte" in heads and "lr" in heads  # which is one value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00030000001, "0.0003"), (None, "-"), ([1, 2], "[1, 2]"), ("x" * 99, "x" * 18 + " ... " + "x" * 18)],
)
def test_settings_in_few_characters(value: object, text: str) -> None:
    assert table.shown(value) == text


def test_markdown_holds_no_markup_of_a_stranger(make_run: MakeRun) -> None:
    make_run("<b>", name="<b> [x](http:y) `z`", optimizer__lr="<script>|")
    make_run("other")
    text = table.markdown(tabulate(find_runs(["runs"])))
    assert "<" not in text and "\\[x\\](http:y) \\`z\\`" in text and "&lt;script>\\|" in text
