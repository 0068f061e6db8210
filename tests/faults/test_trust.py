"""docs/trust.md says how much was tried: its table is counted from the tests. --rewrite-trust writes it again."""

from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faults import (
    test_archives,
    test_bit_flips,
    test_damaged_runs,
    test_kills,
    test_payloads,
    test_resume_after_disk_errors,
    test_wrong_states,
)
from tests.faults.instants import FILES, HOOKS

PAGE = ROOT / "docs/trust.md"
BEGIN, END = "<!-- written by tests/faults/test_trust.py --rewrite-trust -->", "<!-- end -->"


def rows() -> list[tuple[str, str, str, str]]:
    """Return (what is tried, how many cases, what is asserted, what was lost)."""
    damaged, archives, payloads, states = test_damaged_runs, test_archives, test_payloads, test_wrong_states
    kinds = ", ".join([*test_kills.KINDS, "two ranks"])
    readers = sum(len(verbs) for verbs in damaged.READ_BY.values()) * len(damaged.DAMAGES)
    return [
        (f"SIGKILL at random: {kinds}", "20 in CI, 200 and 10 with `--faults=200`", "resumed, it equals the run that was never killed", "nothing"),
        (f"stop or kill at every one of {len(HOOKS)} hooks and {len(FILES)} file operations", "each hook once and an eighth of the kills in CI, all with `--faults=200`", "the same, in every file", "nothing"),
        ("full, read-only or failing disk in mid-run", str(len(test_resume_after_disk_errors.CASES)), "checkpoints that are there are whole; resumed as above", "what came after the last checkpoint"),
        ("flipped bit in a checkpoint", str(test_bit_flips.BITS), "found by every reader", "none was read"),
        ("flipped bit in held_out/ or tokenizer/", str(test_bit_flips.BITS * len(test_bit_flips.OF_TEXT)), "found by every reader", "none was read"),
        ("flipped bit in SHA256SUMS", str(test_bit_flips.BITS), "a warning at most", "no checkpoint"),
        (f"damaged file of a run: {len(damaged.READ_BY)} files, {len(damaged.DAMAGES)} ways", f"{len(damaged.CASES)} in CI, {readers} with `--faults=200`", "one line, no traceback, no waiting", "nothing"),
        ("whole checkpoints with a wrong state", str(len(states.WRONG) + len(states.REFUSED_AT_ONCE)), "refused in one line before training; the run is unchanged", "nothing"),
        ("pickles in checkpoints", str(len(payloads.PICKLES) * len(payloads.CONTAINERS) * 3), "refused in one line", "none ran"),
        ("YAML in config.yaml", str(len(payloads.YAMLS)), "refused in one line", "none ran"),
        ("command lines in sweep.json", str(len(payloads.SWEEPS)), "refused in one line", "none ran"),
        ("flags by which Hydra would compose a run's config", str(len(payloads.FLAGS) * len(payloads.FLAG_VERBS)), "refused in one line", "none ran"),
        ("checkpoints as hostile archives", str(len(archives.ZIPS)), "refused; nothing is unpacked", "nothing"),
        ("safetensors and their index", str(len(archives.SAFETENSORS) + len(archives.INDICES)), "refused; nothing is written", "nothing"),
        ("tokenizers", str(len(archives.TOKENIZERS)), "refused in one line, soon", "nothing"),
        ("small files of much text: zstd, gzip, JSON, Parquet", str(len(archives.BOMBS)), f"less than {archives.MOST >> 20} MiB of memory", "nothing"),
        ("values that become paths", str(len(archives.HASHES) + len(archives.NAMES) + len(archives.SHARDS)), "refused; nothing is written", "nothing"),
    ]  # fmt: skip


def table() -> str:
    heads = ("what is tried", "cases", "what must hold", "lost")
    lines = [heads, ("---",) * len(heads), *rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def test_the_page_has_the_counts_of_the_tests(pytestconfig: pytest.Config) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if pytestconfig.getoption("rewrite_trust"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, (
        "write it again: pytest -n 0 tests/faults/test_trust.py --rewrite-trust"
    )


def test_enough_is_tried() -> None:
    assert sum(test_kills.shares(200).values()) == 200 and sum(test_kills.shares(20).values()) == 20
    assert test_payloads.PAYLOADS >= 60 and test_bit_flips.BITS >= 20


def test_pages_that_name_it() -> None:
    for name in ("README.md", "SECURITY.md"):
        assert "docs/trust.md" in (ROOT / name).read_text(encoding="utf-8")
    assert Path(PAGE).is_file()
