"""Write self-contained web pages: tokens coloured by their surprise, tables, and the page around them."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.files import write_atomically

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #222; --soft: #555; --line: #bbb; --raised: #fff;
  --hover: #f2f6fa }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181c; --text: #ddd; --soft: #9aa; --line: #444b55; --raised: #23262c; --hover: #22272f }
}
html { overflow-x: clip }
body { font: 16px/1.7 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: var(--text);
  background: var(--page) }
h1 { font-size: 1.3rem }
.what { color: var(--soft) }
.text { white-space: pre-wrap; font: 15px/1.9 ui-monospace, monospace; margin-top: 1rem; overflow-wrap: anywhere }
.t { border-radius: 3px; padding: 1px 0; cursor: default; color: #222 }
.t:hover, .t:focus { outline: 2px solid var(--text) }
.more { display: none; position: absolute; z-index: 1; white-space: pre-wrap; font-size: 13px; line-height: 1.5;
  color: var(--text); background: var(--raised); border: 1px solid var(--line); border-radius: 4px;
  padding: .4rem .6rem; margin-top: 1.6em; max-width: min(24rem, 90vw); box-shadow: 0 2px 8px #0003 }
.t:hover .more, .t:focus .more { display: block }
table { border-collapse: collapse; font-size: 13px; margin-top: 1.5rem }
th, td { padding: .15rem .6rem; text-align: right }
th { border-bottom: 1px solid var(--line) }
.l { text-align: left; font-family: ui-monospace, monospace; white-space: pre }
tr.chosen td { font-weight: bold; border-top: 1px solid var(--line) }
.scale span { padding: 2px 8px; color: #222 }
.scroll { overflow-x: auto }
"""
FIGURES = """
body { max-width: 76rem } .pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)) }
figure { margin: 0 } figcaption { font-size: 14px }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
h2 { font-size: 1.1rem; margin: 2rem 0 .3rem } table { margin-top: .5rem } td { white-space: nowrap }
"""


@dataclass(frozen=True)
class Coloured:
    """A token on a page: its text, its surprise in nats (None: it was given), and lines about it."""

    text: str
    surprise: float | None
    more: Sequence[str] = ()


def colour(surprise: float | None) -> str:
    """Return the colour of a surprise: white at 0 nats, deep orange from 10 nats on."""
    if surprise is None:
        return "#e8eef7"
    depth = min(max(surprise, 0.0), 10.0) / 10
    return f"rgb(255,{round(255 - 130 * depth)},{round(255 - 215 * depth)})"


def coloured_text(tokens: Iterable[Coloured]) -> str:
    """Return tokens as a text, each in its colour, with its lines shown under the pointer."""
    spans = []
    for token in tokens:
        title = "" if token.surprise is None else f"{token.surprise:.2f} nats"
        lines = "\n".join(filter(None, [title, *token.more]))
        more = f'<span class="more">{html.escape(lines)}</span>' if lines else ""
        text = html.escape(token.text).replace("\n", "↵\n") if token.text.strip("\n") == "" else html.escape(token.text)
        spans.append(f'<span class="t" tabindex="0" style="background:{colour(token.surprise)}">{text}{more}</span>')
    return f'<div class="text">{"".join(spans)}</div>'


def scale() -> str:
    """Return the legend of the colours."""
    steps = "".join(f'<span style="background:{colour(n)}">{n}</span>' for n in (0, 2, 4, 6, 8, 10))
    return f'<p class="scale">surprise in nats: {steps} and more</p>'


def table(heads: Sequence[str], rows: Iterable[tuple[bool, Sequence[object]]]) -> str:
    """Return a table whose first column is text; rows that are True are emphasized."""
    first, *others = heads
    head = f'<th class="l">{html.escape(first)}</th>' + "".join(f"<th>{html.escape(name)}</th>" for name in others)
    body = "".join(
        f'<tr class="{"chosen" if chosen else ""}"><td class="l">{html.escape(str(cells[0]))}</td>'
        + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells[1:])
        + "</tr>"
        for chosen, cells in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def image(what: str, png: bytes) -> str:
    """Return a picture within the page, of a size for screens of high resolution."""
    data = base64.b64encode(png).decode()
    width = int.from_bytes(png[16:20]) / 1.6  # CSS pixels
    return f'<img alt="{html.escape(what)}" width="{width:.0f}" src="data:image/png;base64,{data}">'


def figure(heading: str, what: str, png: bytes) -> str:
    """Return a picture with its heading, and what it shows, below it."""
    caption = f"<b>{html.escape(heading)}</b>. {html.escape(what)}"
    return f"<figure>{image(heading, png)}<figcaption>{caption}</figcaption></figure>"


def figures(drawn: Iterable[str]) -> str:
    """Return figures side by side, as many as there is room for; such a page has the style FIGURES."""
    return f'<div class="pictures">{"".join(drawn)}</div>'


def write(path: Path, title: str, what: str, *parts: str, style: str = "", script: str = "") -> None:
    """Write a whole page, which loads nothing from anywhere; `what` is the line under its title.

    `style` and `script` are more of the page's own CSS and JavaScript; a page without a script can run none.
    """
    name = html.escape(title)
    allowed = "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:"
    allowed += "; script-src 'unsafe-inline'" if script else ""
    ended = f"<script>{script}</script>" if script else ""
    page = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>
<body><h1>{name}</h1><p class="what">{html.escape(what)}</p>{"".join(parts)}{ended}</body></html>
"""
    write_atomically(path, page.encode("utf-8", "replace"))
