"""Read and write the samples that a run has drawn at its validations."""

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TextIO

from gptlab.files import read_bounded

_OBEYED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MOST_BYTES = 1 << 30  # of a file that is read


class Sample(NamedTuple):
    """The model's continuation of a prompt at a step; `text` does not include the prompt."""

    step: int
    prompt: str
    text: str

    @property
    def markdown(self) -> str:
        """Prompt and text as a code block, which shows any text as it is; half a surrogate pair becomes `?`."""
        text = visible((self.prompt + self.text).encode("utf-8", "replace").decode())
        return "\n".join("    " + line for line in text.splitlines())


def visible(text: str) -> str:
    """Return a text with the characters that a terminal would obey written as Python writes them, \\x1b."""
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def read_samples(run_dir: Path) -> list[Sample]:
    """Return the samples of a run in the order they were drawn; damaged lines are skipped.

    Runs of gptlab 0.1 have only samples.md, in which prompts and texts are not separated: `text` holds both.
    """
    path = run_dir / "samples.jsonl"
    if not path.is_file():
        return _read_markdown(run_dir / "samples.md")
    found = []
    for line in read_bounded(path, MOST_BYTES).decode("utf-8", "replace").split("\n"):
        try:
            value = json.loads(line)
            found.append(Sample(int(value["step"]), str(value["prompt"]), str(value["text"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def write_markdown(file: TextIO, samples: Iterable[Sample]) -> None:
    """Write samples as a section for each step."""
    for step, group in itertools.groupby(samples, key=lambda sample: sample.step):
        file.write(f"## step {step}\n\n")
        for sample in group:
            file.write(f"{sample.markdown}\n\n")


def _read_markdown(path: Path) -> list[Sample]:
    if not path.is_file():
        return []
    found: list[Sample] = []
    step, block = 0, list[str]()
    for line in [*read_bounded(path, MOST_BYTES).decode("utf-8", "replace").split("\n"), ""]:
        if match := re.fullmatch(r"## step (\d{1,15})", line):
            step = int(match[1])
        elif line.startswith("    "):
            block.append(line[4:])
        elif block:
            found.append(Sample(step, "", "\n".join(block)))
            block = []
    return found
