"""Read a directory of Hugging Face or peft as a run: it is imported into the cache, once for what it contains."""

from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from gptlab.checksums import digest
from gptlab.errors import UserError
from gptlab.files import cache_dir, short
from gptlab.runs.run_dir import RunDir

HUB = ("config.json", "adapter_config.json")  # of directories in the hub's formats


def in_hub_format(name: str) -> bool:
    """Tell whether a name is a directory of Hugging Face or of peft, and no run."""
    folder = Path(name).expanduser()
    return any((folder / each).is_file() for each in HUB) and not (folder / "config.yaml").is_file()


def run_of(key: str, name: str) -> RunDir:
    """Return the run that the value of a key names, or the one that a Hugging Face or peft directory is imported as.

    The latter is kept in the cache, by the content of the directory. Only importing needs torch. Raises UserError,
    which names the key.
    """
    if not in_hub_format(name):
        return RunDir.find_as(key, name)
    folder = Path(name).expanduser()
    out = cache_dir() / "imported" / short("\n".join(_content(folder)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{out}.lock"):  # all processes of a run come here
        if not out.exists():
            from gptlab.interop.importing import import_directory

            try:
                import_directory(str(folder.absolute()), out)
            except UserError as error:
                of_key = key if error.key == "hf" else f"{key}: {error.key}"
                raise UserError(of_key, error.value, error.why, error.todo) from error
    return RunDir.find_as(key, str(out))


def _content(folder: Path) -> Iterator[str]:
    """Yield the name and the SHA-256 of each file of a directory; of a LoRA also those of its base."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield f"{path.relative_to(folder)} {digest(path)}"
    if (folder / HUB[1]).is_file() and not (folder / HUB[0]).is_file():
        from gptlab.interop.peft_files import Peft

        base = Path(Peft(folder).base).expanduser()
        yield from _content(base) if base.is_dir() else ()
