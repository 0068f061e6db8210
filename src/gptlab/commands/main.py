"""Find the verb of `gptlab VERB key=value ...` and run it."""

import os
import re
import shlex
import sys

from gptlab import registry
from gptlab.commands.light_imports import import_lightly
from gptlab.commands.streams import standard_streams
from gptlab.errors import UserError
from gptlab.plugins import any_enabled, enable_all


def main(argv: list[str] | None = None) -> int:
    """Answer a command line (after the program's name) with an exit code; `train.py` comes here too."""
    with standard_streams() as output:
        code = answer(sys.argv[1:] if argv is None else argv)
        output.flush()
        if output.failure:
            print(f"error: standard output cannot be written ({output.failure})", file=sys.stderr)
            code = max(code, 1)
    return code


def answer(argv: list[str]) -> int:
    """Enable plugins, find the verb, and run it; returns the exit code."""
    try:
        argv = enable_all(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help") and len(argv) > 1 and argv[1] in registry.verbs():
        verb, argv = argv[1], [argv[1], "--help", *argv[2:]]  # gptlab --help VERB
    if verb in ("-h", "--help"):
        print("gptlab VERB key=value ...\n")
        for name, what in registry.verbs().items():
            print(f"  gptlab {name:<10}{what}")
        print("\ngptlab VERB --help lists its config groups and keys; --cfg job shows the composed config.")
        print('eval "$(gptlab -sc install=bash)" completes verbs, groups and keys.')
        return 0
    if verb in ("-sc", "--shell-completion"):
        return complete(argv)
    if verb not in registry.verbs():
        if told := in_our_words(argv):
            print(f"error: {verb}: no such verb; type: {told}", file=sys.stderr)
            return 2
        print(f"error: {verb}: no such verb; choose one of {', '.join(registry.verbs())}", file=sys.stderr)
        return 2
    if verb == "new" and len(argv) > 1 and argv[1][:1] != "-" and "=" not in argv[1]:
        argv = [verb, f"dir={argv[1]}", *argv[2:]]  # gptlab new DIR
    return run(verb, argv[1:], [sys.argv[0], verb])


def in_our_words(argv: list[str]) -> str | None:
    """Return the command line to type where another tool's verb is given, or none; None where it is not known."""
    from gptlab.commands.habits import advice, verb_for

    verb = verb_for(argv[0])
    if (verb is None and "=" in argv[0]) or argv[0].startswith("--"):
        return advice("train", argv, given=False)
    if verb is None or len(argv) == 1:
        return verb and f"gptlab {verb}"
    return advice(verb, argv[1:]) or f"gptlab {verb} {shlex.join(argv[1:])}"


def complete(argv: list[str]) -> int:
    """Complete a line that is being typed: verbs here, their groups and keys by Hydra."""
    verb = "train"
    if any(arg.startswith("query=") for arg in argv):
        line = re.fullmatch(r"\s*\S+\s+(\S*)(?:\s+(.*))?", os.environ["COMP_LINE"])
        if line is None or line[2] is None:
            print(*registry.verbs())
            return 0
        verb, os.environ["COMP_LINE"] = line[1], f"gptlab {line[2]}"
        if verb not in registry.verbs():
            return 0
    return run(verb, argv, [sys.argv[0]])


def run(verb: str, argv: list[str], program: list[str]) -> int:
    """Run one verb; `program` is the command line that leads to it."""
    from gptlab.commands.command import run_command

    try:
        argv = enable_all(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not any_enabled():  # a plugin may use any metric
        import_lightly()
    return run_command(verb, program, argv)


if __name__ == "__main__":
    sys.exit(main())
