from rich.console import Console

from gptlab.reporting.inspection import inspection_table


def test_a_narrow_terminal_cuts_no_figure() -> None:
    other = {"token": 7, "raw": 0.4321, "tempered": 0.5432, "final": 0.6543}
    step = {"token": 7, "logprob": -12.34, "rank": 12345, "entropy": 10.25, "kept": 50000, "alternatives": [other]}
    console = Console(width=80)
    with console.capture() as captured:
        console.print(inspection_table({"prompt": "a", "steps": [step]}, lambda token: "a very long token" * 3))
    words = captured.get().split()
    assert {"0.432", "0.543", "0.654", "12.34", "12345", "10.25", "50,000"} <= set(words)
