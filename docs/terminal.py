"""Type the first ten minutes of README into a terminal, and keep what it shows: docs/terminal.svg, and all screens as text.

    python docs/terminal.py [--folder DIR]

It needs tmux, and takes as long as its commands. A screen is kept every second in which it has changed.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).resolve().parent
WIDTH, HEIGHT = 80, 30
PROMPT = "$ "
LINES = [
    f"python {DOCS.parent / 'train.py'}",
    'gptlab sample run=latest prompt="The function" decoder=top_k decoder.k=40',
    "gptlab train --model=micro",
    "gptlab train -m optimizer.lr=1e-3,3e-3,9e-3 budget.steps=150",
    "gptlab report pictures=false",
]
PICTURE = 3  # the line whose last screen before its end is the picture: the table of a sweep at work


class Terminal:
    """A shell in tmux, of WIDTH by HEIGHT characters."""

    def __init__(self, folder: Path) -> None:
        self.name = f"gptlab-{time.monotonic_ns()}"
        shell = f"env -u PYTHONPATH_UNUSED PS1='{PROMPT}' bash --norc --noprofile"
        self._tmux("new-session", "-d", "-s", self.name, "-x", str(WIDTH), "-y", str(HEIGHT), "-c", str(folder), shell)

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(["tmux", *arguments], capture_output=True, text=True, check=True).stdout

    def screen(self) -> str:
        """Return what is seen, with the codes of its colours."""
        return self._tmux("capture-pane", "-p", "-e", "-t", self.name).rstrip("\n")

    def type(self, line: str) -> None:
        self._tmux("send-keys", "-t", self.name, "clear", "Enter")
        time.sleep(0.5)
        self._tmux("send-keys", "-t", self.name, "-l", line)
        self._tmux("send-keys", "-t", self.name, "Enter")

    def close(self) -> None:
        self._tmux("kill-session", "-t", self.name)


def screens(terminal: Terminal, line: str) -> list[tuple[float, str]]:
    """Type a line, and return each screen that was seen until the prompt came back, and after how many seconds."""
    terminal.type(line)
    began, found = time.monotonic(), list[tuple[float, str]]()
    while True:
        time.sleep(1)
        seen = terminal.screen()
        if not found or seen != found[-1][1]:
            found.append((time.monotonic() - began, seen))
        if Text.from_ansi(seen).plain.rstrip().endswith(f"\n{PROMPT.strip()}"):
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where the runs and screens.txt are kept; a temporary one otherwise"
    )
    folder = parser.parse_args().folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    terminal = Terminal(folder)
    try:
        seen = [screens(terminal, line) for line in LINES]
    finally:
        terminal.close()
    with (folder / "screens.txt").open("w") as file:
        for line, found in zip(LINES, seen, strict=True):
            for seconds, screen in found:
                plain = Text.from_ansi(screen).plain
                file.write(f"===== {line}: after {seconds:.0f} s\n{plain}\n")
    console = Console(width=WIDTH, record=True, file=(folder / "picture.txt").open("w"))
    console.print(Text.from_ansi(seen[PICTURE][-2][1]))
    console.save_svg(str(DOCS / "terminal.svg"), title="gptlab")
    print(f"{folder / 'screens.txt'} has all screens")


if __name__ == "__main__":
    main()
