"""`gptlab VERB key=value ...`: finds the verb, nothing else."""

import importlib
import os
import re
import sys
from typing import Any

VERBS = {
    "train": ("gptlab.training.run:train", "train a model; everything about it lands in one run directory"),
    "sample": ("gptlab.commands.sample:sample", "continue a prompt with the model of a run"),
    "evaluate": ("gptlab.commands.evaluate:evaluate", "score the model of a run on all of its held-out text"),
    "check": ("gptlab.commands.check:check", "try out a config for a minute: does it train as it should?"),
    "replay": ("gptlab.commands.replay:replay", "rebuild the batch of one step of a run"),
    "compare": ("gptlab.commands.compare:compare", "two runs on the same documents: the difference and its interval"),
    "report": ("gptlab.commands.report:report", "all runs below some folders: one table, pictures, a web page"),
    "tokenize": ("gptlab.commands.tokenize:tokenize", "turn text into token shards, and see how the tokenizer fits"),
    "audit": ("gptlab.commands.audit:audit", "look into a data set: copies, overlap of the splits, hard characters"),
    "import": ("gptlab.commands.import_:import_", "turn a Hugging Face model into a run directory"),
    "export": ("gptlab.commands.export:export", "turn a run into a directory that transformers loads"),
}


AFTER_SWEEP = {"sample": "gptlab.commands.sample:frontier"}  # what makes one of the jobs' results


def main(argv: list[str] | None = None) -> int:
    """Answer a command line (after the program's name) with an exit code; `train.py` comes here too."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print("gptlab VERB key=value ...\n")
        for name, (_, what) in VERBS.items():
            print(f"  gptlab {name:<10}{what}")
        print("\ngptlab VERB --help lists its config groups and keys; --cfg job shows the composed config.")
        print('eval "$(gptlab -sc install=bash)" completes verbs, groups and keys.')
        return 0
    if verb in ("-sc", "--shell-completion"):
        return complete(argv)
    if verb not in VERBS:
        print(f"error: {verb}: no such verb; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return run(verb, argv[1:], [sys.argv[0], verb])


def complete(argv: list[str]) -> int:
    """Tab completion: here of verbs, by Hydra of their groups and keys."""
    verb = "train"
    if any(arg.startswith("query=") for arg in argv):
        line = re.fullmatch(r"\s*\S+\s+(\S*)(?:\s+(.*))?", os.environ["COMP_LINE"])
        if line is None or line[2] is None:
            print(*VERBS)
            return 0
        verb, os.environ["COMP_LINE"] = line[1], f"gptlab {line[2]}"
        if verb not in VERBS:
            return 0
    return run(verb, argv, [sys.argv[0]])


def run(verb: str, argv: list[str], program: list[str]) -> int:
    """One verb; `program` is the command line that leads to it."""
    from gptlab.commands.command import open_door

    def work(config: object) -> dict[str, object] | None:
        return _function(VERBS[verb][0])(config)

    def summarise(results: list[dict[str, object]]) -> dict[str, object]:
        return _function(AFTER_SWEEP[verb])(results)

    return open_door(verb, work, program, argv, summarise if verb in AFTER_SWEEP else None)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


if __name__ == "__main__":
    sys.exit(main())
