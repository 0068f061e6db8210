"""Run `python -m gptlab VERB key=value ...`, the same as `gptlab VERB key=value ...`."""

import sys

from gptlab.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
