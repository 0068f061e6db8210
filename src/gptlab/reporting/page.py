"""Write a report as one self-contained web page: table, pictures, and texts of each prompt side by side."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from gptlab.reporting import html as pages
from gptlab.reporting import table
from gptlab.reporting.rows import Report
from gptlab.runs.reader import RunRecord

AT_MOST = 4  # checkpoints of a run side by side
STYLE = """<style>
body { max-width: 84rem }
h2 { font-size: 1.1rem; margin-top: 2.5rem }
img { max-width: 100%; height: auto; display: block }
.wide { overflow-x: auto }
.wide table { font-size: 12px }
.wide td, .wide th { padding: .15rem .45rem }
.wide td { white-space: nowrap }
.wide th { vertical-align: bottom }
.wide td.l, .wide th.l { max-width: 14rem; overflow: hidden; text-overflow: ellipsis }
.wide tr:hover td { background: #f2f6fa }
.samples { table-layout: fixed; width: 100%; min-width: 48rem }
.samples td { vertical-align: top; text-align: left; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 12px/1.5 ui-monospace, monospace; border-top: 1px solid #ddd }
.samples th { text-align: left }
.samples td:first-child, .samples th:first-child { width: 11rem; font-family: system-ui, sans-serif }
.step { color: #777; display: block }
summary { cursor: pointer; margin-top: 1rem }
</style>"""
# file -> (heading, explanation)
CAPTIONS = {
    "curves": (
        "Score by steps, tokens, FLOPs and time",
        "The best groups have colours, in the order of the table. Tokens and FLOPs are steps times those of a step. "
        "Time is training time: the tokens between two logs over train/tokens_per_second; validation, samples and "
        "checkpoints do not count.",
    ),
    "best_so_far": ("Best so far", "Each dot is a finished run, with the colours of the curves."),
    "swept": (
        "Final score against what was varied",
        "Dots are means over seeds with their standard error; a line joins runs that differ in this variable alone.",
    ),
}


def write(path: Path, report: Report, pictures: dict[str, bytes]) -> None:
    """Write the whole page; `pictures` are PNG, by their names in CAPTIONS."""
    rows = [(False, line) for line in table.lines(report)]
    parts = [STYLE, f'<div class="wide">{pages.table(table.heads(report), rows)}</div>']
    parts += [f'<p class="what">{html.escape(note)}</p>' for note in report.notes]
    for name, png in pictures.items():
        heading, caption = CAPTIONS[name]
        data = base64.b64encode(png).decode()
        parts.append(f'<h2>{heading}</h2><p class="what">{html.escape(caption)}</p>')
        width = int.from_bytes(png[16:20]) / 1.6  # CSS pixels, for high-resolution screens
        parts.append(f'<img alt="{html.escape(heading)}" width="{width:.0f}" src="data:image/png;base64,{data}">')
    if samples := _samples(report):
        what = "The same prompts at a run's validations: the first, the last, and some between."
        parts += ["<h2>Samples</h2>", f'<p class="what">{what}</p>', *samples]
    n, finished = len(report.rows), sum(row.run.status == "finished" for row in report.rows)
    pages.write(path, "Report", f"{n} run{'s' * (n != 1)}, {finished} finished", *parts)


def _samples(report: Report) -> list[str]:
    """Return a table for each prompt: one row per run, one column per checkpoint."""
    texts = {id(row): read_samples(row.run) for row in report.rows}
    prompts: dict[str, None] = {}
    for row in report.rows:
        prompts.update(dict.fromkeys(row.run.prompts))
    found: list[str] = []
    for prompt in prompts:
        body = []
        for row in report.rows:
            own = row.run.prompts
            steps = texts[id(row)]
            if prompt not in own or not steps:
                continue
            number = own.index(prompt)
            cells = [
                f'<td><span class="step">step {step:,}</span>{_highlighted(steps[step][number], prompt)}</td>'
                for step in spread([step for step, blocks in steps.items() if number < len(blocks)])
            ]
            label = html.escape(report.label(row, seed=True))
            body.append(f"<tr><td>{label}</td>{''.join(cells)}{'<td></td>' * (AT_MOST - len(cells))}</tr>")
        if body:
            opened = " open" if not found else ""
            rows = "".join(body)
            found.append(
                f"<details{opened}><summary>{html.escape(prompt)}</summary>"
                f'<div style="overflow-x: auto"><table class="samples">{rows}</table></div></details>'
            )
    return found


def read_samples(run: RunRecord) -> dict[int, list[str]]:
    """Read samples.md as a map from steps to the text of each prompt."""
    lines = run.text("samples.md").split("\n")
    found: dict[int, list[str]] = {}
    block: list[str] | None = None  # the current text
    texts: list[str] = []
    for line in [*lines, ""]:
        head = line.removeprefix("## step ")
        if head != line and head.strip().isdecimal() and len(head) < 20:
            texts = found.setdefault(int(head), [])
            texts.clear()
        elif line.startswith("    "):
            block = [*(block or []), line[4:]]
        elif block is not None:
            texts.append("\n".join(block))
            block = None
    return found


def spread(steps: Sequence[int], most: int = AT_MOST) -> list[int]:
    """Return at most `most` of the steps, evenly spaced, including the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _highlighted(text: str, prompt: str) -> str:
    rest = text.removeprefix(prompt)
    return (f"<b>{html.escape(prompt)}</b>" if rest != text else "") + html.escape(rest)
