"""Locate the cache, where text and tokens are kept between runs."""

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """Return $GPTLAB_CACHE, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPTLAB_CACHE") or Path(home) / "gptlab")


def short(key: str) -> str:
    """Return a file name for a text of any length."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
