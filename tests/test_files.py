from pathlib import Path

import pytest

from gptlab.files import new_folder, write_atomically


def test_a_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep/file"
    write_atomically(path, b"old")

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep/good") as work:
        (work / "a").write_text("1")
        assert not (tmp_path / "deep/good").exists()
    assert (tmp_path / "deep/good/a").read_text() == "1"
    with pytest.raises(RuntimeError), new_folder(tmp_path / "deep/bad") as work:
        (work / "a").write_text("1")
        raise RuntimeError
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["good"]
