"""Values reach Hydra as they were meant."""

from pathlib import Path

from gptlab.config import compose
from gptlab.config.overrides import quote_values, quoted


def test_values_with_an_equals_sign_need_no_quotes(tmp_path: Path) -> None:
    """The names of a sweep's directories have them."""
    folder = f"{tmp_path}/2-optimizer.lr=1e-3,seed=2/it's"
    assert quote_values(["seed=2", "run='a=b'", "data.files=[a=b]", "--config-dir", "a=b=c", "choice(1=2)"]) == [
        "seed=2",
        "run='a=b'",
        "data.files=[a=b]",
        "--config-dir",
        "a=b=c",
        "choice(1=2)",
    ]
    assert compose("sample", [f"run={tmp_path}/0-seed=1,a=2"]).run == f"{tmp_path}/0-seed=1,a=2"
    assert compose("sample", [f"run={quoted(folder)}"]).run == folder
    assert quoted("a\\'b") == r"'a\\\'b'"
