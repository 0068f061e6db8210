import json
import math
import os
from pathlib import Path

import pytest

from gptlab.files import new_folder, remove_unfinished, strict_json, write_atomically


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


def test_what_a_kill_leaves_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill lets nobody clean up: the temporary file stays until the next start of the run."""
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *args: os._exit(9))
        child = os.fork()
        if child == 0:
            write_atomically(tmp_path / "summary.json", b"new")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    write_atomically(tmp_path / "config.yaml", b"x")
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: (done.append("sync"), sync(file))[1])
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    write_atomically(tmp_path / "file", b"content")
    assert done == ["sync", "rename", "sync"]


def test_json_has_no_number_for_what_is_not_finite() -> None:
    content = {"a": [1.5, math.nan, {"b": -math.inf}], "c": (math.inf, 2), "d": "NaN", "e": None, "f": True}
    strict = json.loads(strict_json(content), parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": [1.5, None, {"b": None}], "c": [None, 2], "d": "NaN", "e": None, "f": True}
    assert strict_json({"a": [0.1, "ä"]}, indent=2) == json.dumps({"a": [0.1, "ä"]}, indent=2)
