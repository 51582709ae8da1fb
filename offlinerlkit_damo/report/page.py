"""The pieces of an HTML page that needs nothing beside itself: tables and figures inside it, no address outside it."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from offlinerlkit_damo.report.panels import DPI

FIGURE = re.compile(r"([+-]?\d[^(]*) \((.*)\)")
LONG = 40  # characters of a cell that is text, not figures
STYLE = (
    ":root{color-scheme:light}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "h1,h2{line-height:1.2}h2{margin-top:2.5rem}"
    ".wide{overflow-x:auto}"
    "table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;padding:.3rem 0;color:#444}"
    "td,th{border-bottom:1px solid #ccc;padding:.35rem .7rem;text-align:right;white-space:nowrap;vertical-align:top}"
    "td.long{white-space:normal;text-align:left;min-width:20rem}thead th{border-bottom:2px solid #888}"
    "th[scope=row],th:first-child{text-align:left;position:sticky;left:0;background:#fff}th[scope=row]{font-weight:normal}"
    "@media(max-width:40rem){th[scope=row]{white-space:normal}}p,figcaption,.note{max-width:60rem}"
    "small{display:block;color:#555;white-space:normal}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;max-width:60rem}dt{color:#555}dd{margin:0}"
    ".note{border-left:4px solid #b34700;background:#fff5ee;padding:.5rem 1rem}.note ul{margin:.3rem 0;padding-left:1.2rem}"
    "figure{margin:1rem 0}figcaption{color:#444}img{max-width:100%;min-width:34rem;height:auto}"
)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole page of `parts`, which are HTML already."""
    name, body = html.escape(title), "\n".join(parts)
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n<h1>{name}</h1>\n{body}\n</body>\n</html>\n'


def heading(text: str) -> str:
    """Plain text as a section's heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain text as a paragraph."""
    return f"<p>{html.escape(text)}</p>"


def facts(texts: Mapping[str, str]) -> str:
    """Names with what is to be said of each."""
    return f"<dl>{''.join(f'<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>' for name, text in texts.items())}</dl>"


def notes(texts: Sequence[str]) -> str:
    """What a reader must know, set apart; nothing for none."""
    if not texts:
        return ""
    return (
        f'<div class="note"><strong>Before comparing:</strong><ul>{"".join(f"<li>{html.escape(text)}</li>" for text in texts)}</ul></div>'
    )


def table(content: pd.DataFrame, caption: str) -> str:
    """A table with its caption; the first column names the rows, and what stands in brackets behind a figure goes below, small."""
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in content.columns)
    long = [any(len(str(value)) > LONG and not FIGURE.fullmatch(str(value)) for value in content[name]) for name in content.columns]
    rows = []
    for first, *others in content.itertuples(index=False):
        cells = "".join(_cell(str(value), text) for value, text in zip(others, long[1:], strict=True))
        rows.append(f'<tr><th scope="row">{html.escape(str(first))}</th>{cells}</tr>')
    body = "\n".join(rows)
    return (
        f'<div class="wide" tabindex="0"><table><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, long: bool) -> str:
    if long:
        return f'<td class="long">{html.escape(text)}</td>'
    figure = FIGURE.fullmatch(text)
    value, rest = figure.groups() if figure else (text, "")
    return "<td>" + html.escape(value) + (f"<small>{html.escape(rest)}</small>" if rest else "") + "</td>"


def figure(drawing: Figure, caption: str, alt: str) -> str:
    """A figure inside the page, with a caption and a text for those who cannot see it."""
    file = io.BytesIO()
    # without metadata, which would name addresses
    drawing.savefig(file, format="svg", dpi=DPI, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure><div class="wide" tabindex="0"><img src="data:image/svg+xml;base64,{data}" alt="{html.escape(alt, quote=True)}"></div>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )
