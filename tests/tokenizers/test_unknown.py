"""Characters that a vocabulary does not have: said wherever text meets it, and no bits per byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gptlab.commands.audit import audit
from gptlab.commands.compare import compare
from gptlab.commands.evaluate import evaluate
from gptlab.commands.sample import sample
from gptlab.config import compose
from gptlab.errors import UserError
from gptlab.tokenizers.unspelled import Unspelled
from gptlab.training.config import TrainConfig
from gptlab.training.run import train

Tiny = Callable[..., TrainConfig]
OTHER = "the cat \U0001f408 sat \u732b on a mat. "


@pytest.mark.slow
def test_unknown_characters_are_said_and_bits_per_byte_is_not(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = train(tiny("tokenizer=char"))
    assert summary["val_bits_per_byte"] > 0
    Path("other.txt").write_text(OTHER * 20)
    asked = ["run=run", "data=text", "data.files=[other.txt]", "data.val_fraction=1"]
    found = evaluate(compose("evaluate", asked))
    assert found["bits_per_byte"] is None and found["unspelled"] == 40  # two animals, 20 times each
    assert found["characters"] == 20 * 26 and found["unspelled_fraction"] == 1 / 13  # 26 characters in a line
    assert found["loss"] > 0 and "40 of 520 characters (7.7%)" in capsys.readouterr().out
    answer = sample(compose("sample", ["run=run", "prompt=a \U0001f408 b", "max_new_tokens=3"]))
    assert (answer["unspelled"], answer["unspelled_fraction"]) == (1, 0.2)
    assert "1 of 5 characters (20.0%) of the prompt" in capsys.readouterr().err
    with pytest.raises(UserError, match="no document is held out"):
        compare(compose("compare", ["a=run", "b=run", *asked[1:]]))


def test_a_run_whose_held_out_text_is_not_spelled(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    Path("held").mkdir()
    Path("held/a.txt").write_text(OTHER * 20)
    text = ["tokenizer=char", "data.val_files=[held/a.txt]"]
    summary = train(tiny(*text))
    assert summary.get("val_bits_per_byte") is None and summary["val_loss"] > 0
    assert "40 of 520 characters (7.7%) of the held-out text are unknown" in " ".join(capsys.readouterr().out.split())
    found = evaluate(compose("evaluate", ["run=run"]))
    assert found["bits_per_byte"] is None and (found["unspelled"], found["characters"]) == (40, 520)


def test_audit_counts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """480 characters to train on and 26 of another text, of which 2 are unknown: 0.395%."""
    Path("known.txt").write_text("the cat sat on a mat. \n\n" * 20)
    Path("held.txt").write_text(OTHER)
    asked = ["data=text", "data.files=[known.txt]", "data.val_files=[held.txt]", "tokenizer=char"]
    found = audit(compose("audit", asked))
    assert (found["unspelled"], found["characters"]) == (2, 506)
    assert found["unspelled_fraction"] == 2 / 506
    assert "not in the vocabulary: 2 of 506 characters (0.4%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "whole", "said"),
    [
        (12, 3400, "12 of 3,400 characters (0.4%)"),
        (0, 10, "0 of 10 characters (0.0%)"),
        (1, 1_000_000, "1 of 1,000,000 characters (less than 0.1%)"),
        (1234, None, "1,234 characters"),
    ],
)
def test_a_share_is_said_where_the_whole_is_known(part: int, whole: int | None, said: str) -> None:
    lost = Unspelled(part, whole)
    assert str(lost) == said and bool(lost) == bool(part)
    assert lost.record()["unspelled_fraction"] == (None if whole is None else part / whole)
    assert lost + Unspelled(1, 10) == Unspelled(part + 1, None if whole is None else whole + 10)


def test_what_a_normalizer_changes_is_not_spelled(tmp_path: Path) -> None:
    from gptlab.tokenizers.hf import JSONTokenizer
    from tests.tokenizers.directories import byte_level
    from tokenizers import normalizers

    made = JSONTokenizer(byte_level(normalizer=normalizers.NFC()).backend_tokenizer.to_str(), 0)
    for text, lost in {"caf\u00e9": 0, " caf\u00e9": 0, "cafe\u0301": 2, "": 0}.items():
        assert made.unspelled(text, made.encode_array(text)) == lost
