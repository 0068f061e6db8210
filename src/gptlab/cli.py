"""`gptlab VERB key=value ...`: finds the verb, nothing else."""

import importlib
import sys

VERBS = {
    "train": ("gptlab.training.run", "train a model; everything about it lands in one run directory"),
    "sample": ("gptlab.sample", "continue a prompt with the model of a run"),
    "evaluate": ("gptlab.evaluation.perplexity", "score the model of a run on all of its held-out text"),
}


def main(argv: list[str] | None = None) -> int:
    """Answer a command line (after the program's name) with an exit code; `train.py` comes here too."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        print("gptlab VERB key=value ...\n")
        for name, (_, what) in VERBS.items():
            print(f"  gptlab {name:<10}{what}")
        print("\ngptlab VERB --help lists its config groups and keys; --cfg job shows the composed config.")
        return 0
    if verb not in VERBS:
        print(f"error: {verb}: no such verb; choose one of {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return run(verb, argv[1:], [sys.argv[0], verb])


def run(verb: str, argv: list[str], program: list[str]) -> int:
    """One verb; `program` is the command line that leads to it."""
    from gptlab.door import open_door

    def work(config: object) -> dict[str, object] | None:
        return getattr(importlib.import_module(VERBS[verb][0]), verb)(config)

    return open_door(verb, work, program, argv)


if __name__ == "__main__":
    sys.exit(main())
