"""Divide held-out text in two: the part by which a change is chosen is not the one that tells how good it is."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gptlab.errors import require
from gptlab.evaluation.documents import common_documents
from gptlab.files import new_folder
from gptlab.runs.run_dir import RunDir

DECIDES, REPORTS = "decides", "reports"
FEWEST = 10  # documents; below that, each is cut in two


def halves(documents: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return documents in two parts of about as many bytes, by their hashes; a few documents are cut in their middles.

    The division is the same for every order of the documents.
    """
    if len(documents) < FEWEST:
        cuts = [_middle(document) for document in documents]
        parts = [(each[:at], each[at:]) for each, at in zip(documents, cuts, strict=True)]
        return [first for first, _ in parts if first], [second for _, second in parts if second]
    found: tuple[list[bytes], list[bytes]] = ([], [])
    for document in sorted(documents, key=lambda text: hashlib.sha256(text).digest()):
        smaller = min(found, key=lambda part: sum(map(len, part)))
        smaller.append(document)
    return found


def _middle(document: bytes) -> int:
    """Return the middle of a text in UTF-8, before a character."""
    at = len(document) // 2
    while at < len(document) and document[at] & 0xC0 == 0x80:
        at += 1
    return at


def write_halves(run: RunDir, key: str, folder: Path) -> str:
    """Write the held-out documents of a run into `folder`/decides and /reports, and return the hash of all of them.

    Raises UserError, for `key`, where there are too few of them to make two parts; for the ledger, where one of the
    two is there already and has other files.
    """
    documents, _, _ = common_documents([run], None)
    parts = dict(zip((DECIDES, REPORTS), halves(documents), strict=True))
    why, todo = "its held-out text is too short for two parts", "hold out more of it: data.val_fraction"
    require(all(parts.values()), key, run.path, why, todo)
    for name, texts in parts.items():
        files = {f"{number:05d}.txt": text for number, text in enumerate(texts)}
        if (folder / name).exists():  # of a gate that was killed before it wrote its ledger, or of other work
            same = {path.name: path.read_bytes() for path in (folder / name).glob("*.txt")} == files
            why = f"has a folder {name} of other files than the held-out text of {run.path}"
            require(same, "ledger", folder, why, "give another folder: ledger=DIR")
            continue
        with new_folder(folder / name) as work:
            for file, text in files.items():
                (work / file).write_bytes(text)
    return text_hash(folder)


def text_hash(folder: Path) -> str:
    """Return the hash of the two parts that `write_halves` wrote."""
    digest = hashlib.sha256()
    for name in (DECIDES, REPORTS):
        for path in sorted((folder / name).glob("*.txt")):
            digest.update(f"{name}/{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
