"""Read and write the samples that a run has drawn at its validations."""

import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TextIO


class Sample(NamedTuple):
    """The model's continuation of a prompt at a step; `text` does not include the prompt."""

    step: int
    prompt: str
    text: str

    @property
    def markdown(self) -> str:
        """Prompt and text as a code block, which shows any text as it is; half a surrogate pair becomes `?`."""
        text = (self.prompt + self.text).encode("utf-8", "replace").decode()
        return "\n".join("    " + line for line in text.splitlines())


def read_samples(run_dir: Path) -> list[Sample]:
    """Return the samples of a run in the order they were drawn; damaged lines are skipped.

    Runs of gptlab 0.1 have only samples.md, in which prompts and texts are not separated: `text` holds both.
    """
    path = run_dir / "samples.jsonl"
    if not path.is_file():
        return _read_markdown(run_dir / "samples.md")
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
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
    for line in [*path.read_text(encoding="utf-8", errors="replace").split("\n"), ""]:
        if match := re.fullmatch(r"## step (\d{1,15})", line):
            step = int(match[1])
        elif line.startswith("    "):
            block.append(line[4:])
        elif block:
            found.append(Sample(step, "", "\n".join(block)))
            block = []
    return found
