"""A metrics.csv is read back as it was written, also after a kill or on a full disk."""

from pathlib import Path

from gptlab.training.metrics_file import MetricsFile, metrics_until

HEAD = "optim/lr,step,train/loss\n"


def test_a_line_that_is_half_written_is_no_row(tmp_path: Path) -> None:
    """Cut within its step, 12 would read as 1."""
    path = tmp_path / "metrics.csv"
    path.write_text(HEAD + "0.1,9,3.0\n0.1,1")
    assert metrics_until(path, 20) == [{"optim/lr": "0.1", "step": "9", "train/loss": "3.0"}]


def test_rows_that_are_kept_are_written_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsFile(path)
    for step in (1, 2, 3):
        logger.log_metrics({"train/loss": 1 / (3 * step), "optim/lr": 0.1}, step)
        if step == 2:
            before = path.read_bytes()
    MetricsFile(path, metrics_until(path, 2))
    assert path.read_bytes() == before


def test_a_new_metric_is_a_new_column(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsFile(path)
    logger.log_metrics({"train/loss": 2.0}, 1)
    logger.log_metrics({"val/loss": 3.0}, 1)
    assert path.read_text() == "step,train/loss,val/loss\n1,2.0,\n1,,3.0\n"
    assert [row["step"] for row in metrics_until(path)] == ["1", "1"]
