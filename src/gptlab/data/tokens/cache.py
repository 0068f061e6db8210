"""Where text and tokens are kept between runs."""

import hashlib
import os
from pathlib import Path


def cache_dir() -> Path:
    """$GPTLAB_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GPTLAB_CACHE") or Path(home) / "gptlab")


def short(key: str) -> str:
    """A text of any length as the name of a file."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]
