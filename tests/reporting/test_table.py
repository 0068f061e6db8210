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
        "| run | lr | seed | status | steps | tokens | FLOPs | time | val loss | perplexity | bits/byte | tokens/s "
        "| mean val loss ± s.e. (seeds) |"
    )
    assert lines[2] == (
        "| 2-optimizer.lr=0.3,a-long-name\\|with-a-bar | 0.3 | 2 | finished | 10 | 1,280 | 1.28e+06 | 0:04 | 2.0000 | 7.40 "
        "| 1.0000 | 512 | 2.0000 (1) |"
    )
    assert lines[3].endswith("| not finite | 7.40 | not finite | 512 |  |")
    assert lines[4].endswith("| 2.6250 ± 0.1250 (2) |") and lines[5].endswith("|  |")
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


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_terminal_s_table_fits_and_keeps_what_matters(report: Report, width: int) -> None:
    out = io.StringIO()
    table.show(Console(file=out, width=width, force_terminal=True, color_system=None), report)
    lines = out.getvalue().splitlines()
    assert all(cell_len(line.rstrip()) <= width for line in lines if line.strip() and "same budget" not in line)
    assert "2.6250 ± 0.1250 (2)" in out.getvalue() and "not finite" in out.getvalue()
    assert ("tokens/s" in out.getvalue()) == (width == 160)


def test_a_file_gets_the_whole_table(report: Report) -> None:
    out = io.StringIO()
    table.show(Console(file=out, width=20), report)
    assert "tokens/s" in out.getvalue() and "2.6250 ± 0.1250 (2)" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00030000001, "0.0003"), (None, "-"), ([1, 2], "[1, 2]"), ("x" * 99, "x" * 18 + " ... " + "x" * 18)],
)
def test_settings_in_few_characters(value: object, text: str) -> None:
    assert table.shown(value) == text


def test_markdown_holds_no_markup_of_a_stranger(make_run: MakeRun) -> None:
    make_run("<b> [x](http:y) `z`", optimizer__lr="<script>|")
    make_run("other")
    text = table.markdown(tabulate(find_runs(["runs"])))
    assert "<" not in text and "\\[x\\](http:y) \\`z\\`" in text and "&lt;script>\\|" in text
