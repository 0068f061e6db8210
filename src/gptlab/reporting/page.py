"""Write a report as one self-contained web page: table, charts, settings that differ, and texts side by side.

The charts are interactive where plotly is installed, and pictures elsewhere. The page loads nothing.
"""

import html
from collections.abc import Sequence
from pathlib import Path

from gptlab.reporting import html as pages
from gptlab.reporting import table
from gptlab.reporting.interactive import has_plotly, own_file, packed, packed_library, page_data
from gptlab.reporting.names import shown
from gptlab.reporting.rows import Report, Row
from gptlab.runs.reader import RunRecord

AT_MOST = 4  # checkpoints of a run side by side
MOST_PICTURED = 8  # runs whose pictures are shown
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
        "Dots are means over seeds with their standard error; a line joins runs that differ in this variable alone. "
        "Crosses were pruned, at their last scores.",
    ),
}
CURVES = """<h2>Curves</h2><div class="controls">
<label>show <select id="metric"></select></label><label>over <select id="axis"></select></label>
<label>smooth <input type="range" id="smooth" min="0" max="0.98" step="0.02" value="0"></label>
<label><input type="checkbox" id="seeds" checked>mean and standard error of seeds</label>
<label><input type="checkbox" id="logx">log x</label><label><input type="checkbox" id="logy">log y</label></div>
<div class="chart" id="curves"></div>
<p class="what">Tokens and FLOPs are steps times those of a step. Time is training time, without validation, samples and
checkpoints. Drag to enlarge; click twice to see all again.</p>"""
FINAL = """<div><h2>Final score against what was varied</h2>
<div class="controls"><label>by <select id="varied"></select></label></div>
<div class="chart low" id="final"></div><p class="what">Means over seeds with their standard error; a line joins runs
that differ in this variable alone. Crosses were pruned.</p></div>"""
BEST = """<div><h2>Best so far</h2><div class="controls">&nbsp;</div><div class="chart low" id="best"></div>
<p class="what">Each dot is a finished run.</p></div>"""
DIFFERENCES = """<h2>What differs between two runs</h2><div class="controls"><label><select id="first"></select></label>
<label>and <select id="second"></select></label></div>
<div class="wide"><table class="differ" id="differ"></table></div>"""
CONTROLS = """<div class="controls"><label>filter <input type="search" id="filter" placeholder="nano lr=0.001"></label>
<label><input type="checkbox" id="unfold">each seed</label><span>chosen:
<button id="best8">best 8</button> <button id="shown">those shown</button> <button id="all">all</button>
<button id="none">none</button></span></div>"""


def write(path: Path, report: Report, pictures: dict[str, bytes]) -> None:
    """Write the whole page; `pictures` are PNG, by their names in CAPTIONS, for a page without plotly."""
    drawn = has_plotly()
    parts = [CONTROLS, f'<div class="wide">{_table(report)}</div>']
    parts += [f'<p class="what">{html.escape(note)}</p>' for note in report.notes]
    if drawn:
        final = FINAL if any(key != "seed" for key in report.varied) else ""
        parts += [CURVES, f'<div class="pair">{final}{BEST}</div>']
    else:
        parts += [_picture(name, png) for name, png in pictures.items()]
    parts.append(DIFFERENCES)
    if drawn_by_tasks := _drawn_by_tasks(report):
        what = "What the best runs drew of their last validation, each the first of its seeds."
        parts += ["<h2>Pictures</h2>", f'<p class="what">{what}</p>', *drawn_by_tasks]
    if samples := _samples(report):
        what = "The same prompts at a run's validations: the first, the last, and some between; of the chosen runs."
        parts += ["<h2>Samples</h2>", f'<p class="what">{what}</p>', *samples]
    held = {"data": packed(page_data(report))} | ({"library": packed_library()} if drawn else {})
    parts += [f'<script type="text/plain" id="{name}">{content}</script>' for name, content in held.items()]
    n, finished = len(report.rows), sum(row.run.status == "finished" for row in report.rows)
    what = f"{n} run{'s' * (n != 1)}, {finished} finished"
    pages.write(path, "Report", what, *parts, style=own_file("page.css"), script=own_file("page.js"))


def _table(report: Report) -> str:
    """Return the table: a row for each group, and folded below it one for each of its seeds."""
    names = table.heads(report)
    head = "".join(
        f'<th{" class=l" if i == 0 else ""} data-sort tabindex="0">{html.escape(name)}</th>'
        for i, name in enumerate(names)
    )
    body = []
    for group in report.groups():
        body.append(_row(report, group, group[0], len(group)))
        if len(group) > 1:
            body += [_row(report, [row], row, 0) for row in group]
    return f'<table id="runs"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _row(report: Report, rows: Sequence[Row], first: Row, seeds: int) -> str:
    """Return the row of a group with as many seeds, or that of one of them where `seeds` is 0."""
    figures = {key: table.of_group(report, rows, key) for key in report.figures}
    cells: list[tuple[str, object]] = []
    if seeds:
        cells.append((table.score_cell(report, rows), first.mean))
    else:
        cells.append(("", first.figures[report.score.key]))
    cells += [(figure.text(figures[key]), figures[key]) for key, figure in report.figures.items()]
    cells.append((table.group_status(report, rows) if seeds else first.status, ""))
    for key in report.keys:
        text = ", ".join(dict.fromkeys(shown(row.asked[key]) for row in rows))
        cells.append((text, text))
    name = html.escape(report.label(first, seed=seeds < 2))
    if seeds:
        fold = '<button class="fold" aria-label="its seeds">▸</button>' if seeds > 1 else '<span class="fold"></span>'
        checked = " checked" if first.group < 8 else ""
        box = f'<input type="checkbox" class="choose" data-group="{first.group}" aria-label="chosen"{checked}>'
        name = f'{fold}{box}<span class="dot" data-group="{first.group}"></span>{name}'
    values = "".join(f'<td data-value="{_value(value)}">{html.escape(text)}</td>' for text, value in cells)
    kind, label = "group" if seeds else "seed", _value(report.label(first, seed=True))
    return f'<tr class="{kind}" data-group="{first.group}"><td class="l" data-value="{label}">{name}</td>{values}</tr>'


def _value(value: object) -> str:
    """Return what a cell is sorted by."""
    return "" if value is None else html.escape(str(value))


def _picture(name: str, png: bytes) -> str:
    heading, caption = CAPTIONS[name]
    return f'<h2>{heading}</h2><p class="what">{html.escape(caption)}</p>{pages.image(heading, png)}'


def _drawn_by_tasks(report: Report) -> list[str]:
    """Return the pictures in the directories of the best runs, those of a run side by side."""
    found = []
    for group in report.groups()[:MOST_PICTURED]:
        if pictures := group[0].run.pictures:
            label = html.escape(report.label(group[0], seed=True))
            images = "".join(pages.image(name, png) for name, png in pictures.items())
            found.append(f'<details open><summary>{label}</summary><div class="pictures">{images}</div></details>')
    return found


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
            cells += ["<td></td>"] * (AT_MOST - len(cells))
            body.append(f'<tr data-group="{row.group}"><td>{label}</td>{"".join(cells)}</tr>')
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
