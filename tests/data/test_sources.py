import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptlab.data import sources
from gptlab.data.sources import Bundled, Download, Files
from gptlab.errors import UserError

TEXT = "A short story.\r\nWith one accent: é.\n"
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real HTTP server on this machine; GET /story.txt works, everything else is 404."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www/story.txt").write_bytes(TEXT.encode())

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path / "www"))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.mark.slow
def test_bundled_english() -> None:
    documents = Bundled().documents()
    text = "\n".join(documents)
    assert 1_500_000 < len(text.encode()) < 4_000_000
    assert "Return a new array of bytes" in text or "bytearray" in text
    assert 'The "assert" statement' in text  # the language reference
    assert Bundled().documents() == documents


def test_bundled_leaves_code_out(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        '"""Module."""\nx = "a string"\nclass A:\n    """Klass."""\n    def f(self):\n'
        '        """Method."""\n        return 1\nif x:\n    def g():\n        """Inner."""\n'
    )
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/t.py").write_text('"""A test."""')
    assert list(sources._docstrings(tmp_path)) == ["Module.\n\nKlass.\n\nMethod.\n\nInner."]


def test_own_files_by_path_and_glob(tmp_path: Path) -> None:
    for name, text in {"b.txt": "bee", "a.txt": "ay", "c.md": "sea"}.items():
        (tmp_path / name).write_text(text)
    assert Files(files=["*.txt"]).documents() == ["ay", "bee"]
    assert Files(files=[str(tmp_path / "c.md"), "*.txt", "a.txt"]).documents() == ["sea", "ay", "bee"]


def test_line_ends_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "crlf.txt").write_bytes(TEXT.encode())
    assert Files(files=["crlf.txt"]).documents() == [TEXT]


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("abcdé".encode("latin-1"))
    with pytest.raises(UserError, match=r"data\.files=.*latin1\.txt: is not UTF-8 \(byte 4\); "):
        Files(files=["latin1.txt"]).documents()


@pytest.mark.parametrize("files", [[], ["missing.txt"], ["*.nothing"]])
def test_no_file(files: list[str]) -> None:
    with pytest.raises(UserError, match=r"^data\.files="):
        Files(files=files).documents()


def test_a_download_is_fetched_once(server: str) -> None:
    data = Download(url=f"{server}/story.txt", sha256=SHA256)
    assert data.documents() == [TEXT]
    data.url = "http://127.0.0.1:1/gone"
    assert data.documents() == [TEXT]


@pytest.mark.parametrize(
    ("path", "why"), [("story.txt", "data.sha256=0+: .+" + SHA256), ("none.txt", "data.url=.+404")]
)
def test_a_download_that_is_wrong_is_refused_and_not_kept(server: str, path: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=why):
        Download(url=f"{server}/{path}", sha256="0" * 64).documents()
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_download_without_a_network() -> None:
    with pytest.raises(UserError, match=r"data\.url=http://127\.0\.0\.1:1/x: cannot be fetched .+; .+file:///"):
        Download(url="http://127.0.0.1:1/x", sha256=SHA256).documents()


def test_a_local_copy_serves_as_a_url(tmp_path: Path) -> None:
    (tmp_path / "copy.txt").write_bytes(TEXT.encode())
    assert Download(url=f"file://{tmp_path}/copy.txt", sha256=SHA256).documents() == [TEXT]


@pytest.mark.parametrize(
    "field",
    [{"batch_size": 0}, {"micro_batch_size": 0}, {"val_fraction": 0.0}, {"val_fraction": 1.5}, {"num_workers": -1}],
)
def test_impossible_settings_say_so(field: dict[str, float]) -> None:
    ((name, value),) = field.items()
    with pytest.raises(ValueError, match=f"^{name}={value}: .+; .+"):
        Files(**field)  # type: ignore[arg-type]
