from pathlib import Path

import pytest

from gptlab.data.text import bundled


@pytest.mark.slow
def test_bundled_english() -> None:
    documents = bundled.english()
    text = "\n".join(documents)
    assert 1_500_000 < len(text.encode()) < 4_000_000
    assert "Return a new array of bytes" in text or "bytearray" in text
    assert 'The "assert" statement' in text  # the language reference
    assert bundled.english() == documents


def test_code_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        '"""Module."""\nx = "a string"\nclass A:\n    """Klass."""\n    def f(self):\n'
        '        """Method."""\n        return 1\nif x:\n    def g():\n        """Inner."""\n'
    )
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/t.py").write_text('"""A test."""')
    assert list(bundled._docstrings(tmp_path)) == ["Module.\n\nKlass.\n\nMethod.\n\nInner."]
