from gptlab.reporting.figures import FIGURES, PER_BYTE, PER_TOKEN, SPARED


def test_figures_are_written_in_few_characters() -> None:
    told = {
        "steps": 1234.0,
        "flops": 1.28e18,
        "seconds": 3725.0,
        "val_loss": 2.5,
        "perplexity": 12345.678,
        "tokens_per_second": 1e6,
    }
    assert [FIGURES[key].text(value) for key, value in told.items()] == [
        *("1,234", "1.28e+18", "1:02:05", "2.5000", "12,345.68", "1,000,000"),
    ]
    assert FIGURES["seconds"].text(59.6) == "1:00" and FIGURES["val_loss"].text(float("nan")) == "not finite"
    assert {figure.text(None) for figure in FIGURES.values()} == {"-"}


def test_a_narrow_terminal_keeps_the_score() -> None:
    assert SPARED[-1] == PER_BYTE and PER_TOKEN not in SPARED and len(SPARED) == len(FIGURES) - 1


def test_what_ranks_runs_has_a_curve_and_an_axis() -> None:
    for key in (PER_TOKEN, PER_BYTE):
        assert FIGURES[key].metric and FIGURES[key].axis
