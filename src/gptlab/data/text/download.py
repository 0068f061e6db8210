"""Download files once; a download that breaks off is resumed, and its SHA-256 is checked."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from gptlab.errors import UserError, reason, require
from gptlab.files import cache_dir

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt; doubled each time
TIMEOUT = 30.0  # seconds without data
BLOCK = 1 << 16  # bytes; the most that a broken connection loses
AGAIN = (408, 429)  # status codes to retry, besides all from 500 on


def fetch(url: str, sha256: str) -> Path:
    """Return the file with this hash from the cache, after downloading it if it is not there."""
    path = cache_dir() / "downloads" / sha256
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            partial = path.with_suffix(".partial")
            begun = partial.exists()  # by an earlier process, perhaps from another URL
            if (found := _fetch(url, partial, sha256)) != sha256 and begun:
                found = _fetch(url, partial, sha256)
            why, todo = f"but {url} has {found}", "mend the address, or the hash if you trust this text"
            require(found == sha256, "data.sha256", sha256, why, todo)
            os.replace(partial, path)
    return path


def _fetch(url: str, partial: Path, sha256: str) -> str:
    """Download the file into `partial`, which may hold its beginning already; a file with another hash is removed."""
    _download(url, partial)
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
    return found


def _download(url: str, partial: Path) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _append(url, partial)
        except (OSError, ValueError, http.client.HTTPException) as error:
            answered = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in AGAIN
            refused = isinstance(error, ValueError) or answered
            unreachable = type(error) is urllib.error.URLError and not partial.exists()
            if refused or unreachable or attempt == ATTEMPTS:
                why = f"cannot be fetched ({reason(error)})"
                if partial.exists():
                    why += f", {partial.stat().st_size:,} bytes came so far"
                todo = "connect and run it again, or give data.url=file:///PATH of a copy"
                raise UserError("data.url", url, why, todo) from error
            time.sleep(PAUSE * 2 ** (attempt - 1))


def _append(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left, or the file has changed: the hash decides
            return
        raise
    with response, partial.open("ab" if response.status == 206 else "wb") as file:
        expected, came = response.headers.get("Content-Length"), 0
        while block := response.read(BLOCK):
            file.write(block)
            came += len(block)
        if expected is not None and came < int(expected):
            raise http.client.IncompleteRead(b"", int(expected) - came)
