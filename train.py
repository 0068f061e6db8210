"""Run `python train.py key=value ...`, the same as `gptlab train key=value ...`."""

import sys

from gptlab.commands.main import run

if __name__ == "__main__":
    sys.exit(run("train", sys.argv[1:], sys.argv[:1]))
