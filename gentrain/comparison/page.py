"""One HTML file that needs nothing else: styles, script, pictures and curves are in it.

Everything that is shown goes through text.html, which escapes it. The page's own policy lets the browser run
one script, ours, by its hash, and load nothing.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from gentrain.comparison.collect import Run
from gentrain.comparison.comparison import Comparison
from gentrain.comparison.curves import Curve, ink, svg
from gentrain.comparison.figures import describe_protocol
from gentrain.comparison.tables import figure_tables, plain_table
from gentrain.comparison.text import html
from gentrain.runs.training_cost import RATE

HERE = Path(__file__).parent
UNPLOTTED = ("train/lr", RATE)
TITLES = {"samples": "Samples", "reconstructions": "Reconstructions", "interpolation": "Interpolations"}
NOTES = {
    "samples": "The last grid of training; one picture is equally large in all of them.",
    "reconstructions": "Each picture of the validation split, and beside it what came back.",
}


def page(comparison: Comparison) -> str:
    style, script = ((HERE / name).read_text() for name in ("page.css", "page.js"))
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    count = len(comparison.runs)
    title = f"{count} run{'s' if count > 1 else ''} compared"
    sections = [
        ("figures", "Figures", _figures(comparison)),
        ("settings", "Settings that differ", _settings(comparison)),
        ("curves", "Curves", _curves(comparison)),
        ("pictures", "Pictures", _pictures(comparison)),
        ("runs", "Each run", "".join(map(_details, comparison.runs))),
    ]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, body in sections if body)
    bodies = "".join(
        f'<section id="{anchor}"><h2>{heading}</h2>{body}</section>'
        for anchor, heading, body in sections
        if body
    )
    remarks = "".join(f'<p class="warn">{html(remark)}</p>' for remark in comparison.remarks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>gentrain: {title}</title><style>{style}</style></head><body>"
        f'<h1>{title}</h1><p class="soft">runs={html(", ".join(comparison.patterns))}</p>'
        f"<nav>{links}</nav>{remarks}{bodies}<script>{script}</script></body></html>\n"
    )


def _figures(comparison: Comparison) -> str:
    intro = (
        '<p class="soft">Figures share a column only if they were measured by the same protocol. '
        "A heading sorts.</p>"
    )
    if len(comparison.groups) > 1:
        checked = " checked" if len(comparison.groups) < len(comparison.runs) else ""
        intro += (
            f'<p><label><input type="checkbox" id="together"{checked}> '
            "keep the runs of a folder or a sweep together</label></p>"
        )
    return intro + figure_tables(comparison)


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return "<p>None.</p>" if len(comparison.runs) > 1 else ""
    rows = {
        run.label: ["" if key not in run.config else str(run.config[key]) for key in comparison.settings]
        for run in comparison.runs
    }
    return plain_table(comparison, comparison.settings, rows)


# ---- curves


def _curves(comparison: Comparison) -> str:
    """valid/... where the protocols are the same; train/loss of one family at a time: each has its own."""
    charts: dict[tuple[str, str], list[tuple[int, Run]]] = {}
    for number, run in enumerate(comparison.runs):
        for tag in run.curves:
            charts.setdefault((tag, _alike(run, tag)), []).append((number, run))
    main: list[str] = []
    more: list[str] = []
    for (tag, note), drawn in sorted(charts.items(), key=lambda item: (_rank(item[0][0]), item[0])):
        if tag in UNPLOTTED:
            continue
        curves = [Curve(run.label, number, run.curves[tag]) for number, run in drawn]
        drawing, cut = svg(curves, f"{tag} of {len(curves)} runs by step")
        if drawing:
            above = "; the first values lie above the picture" if cut else ""
            keys = _keys(drawn)
            head = f'<h3>{html(tag)}</h3><p class="soft small">{html(note + above)}</p>'
            (more if _rank(tag) > 1 else main).append(f"<div>{head}{drawing}{keys}</div>")
    rest = "".join(more)
    hidden = f'<details><summary>More curves</summary><div class="charts">{rest}</div></details>'
    return (f'<div class="charts">{"".join(main)}</div>' if main else "") + (hidden if more else "")


def _alike(run: Run, tag: str) -> str:
    if not tag.startswith("valid/"):
        return f"model={run.family}, data={run.data}; by step"
    figure = next(figure for figure in run.figures if figure.name == tag)
    return "; ".join([*filter(None, [figure.meaning]), *describe_protocol(figure.protocol), "by step"])


def _rank(tag: str) -> int:
    """Which curves are shown at once: the losses."""
    if tag in ("valid/bits_per_dim", "valid/mse", "valid/frechet_distance"):
        return 0
    return 1 if tag in ("train/loss", "train/d_loss", "train/g_loss") else 2


def _keys(drawn: Iterable[tuple[int, Run]]) -> str:
    keys = (
        f'<span class="key {ink(number)}"><i class="{"dash" if "dash" in ink(number) else ""}"></i>'
        f"<span>{html(run.label)}</span></span>"
        for number, run in drawn
    )
    return f'<p class="small">{"".join(keys)}</p>'


# ---- pictures


def _pictures(comparison: Comparison) -> str:
    kinds = dict.fromkeys(picture.kind for pictures in comparison.pictures for picture in pictures)
    order = [*TITLES, *sorted(kind for kind in kinds if kind not in TITLES)]
    parts = []
    for kind in (kind for kind in order if kind in kinds):
        cards = [
            f'<figure><figcaption>{html(run.label)} <span class="soft small">{html(picture.source)}'
            f'</span></figcaption><img src="{picture.uri}" alt="{html(f"{kind} of {run.label}")}" '
            f'style="width: {100 * picture.share:.2f}%"></figure>'
            for run, pictures in zip(comparison.runs, comparison.pictures, strict=True)
            for picture in pictures
            if picture.kind == kind
        ]
        wide = "" if kind in TITLES or kind == "sample/grid" else " wide"
        note = f'<p class="soft small">{NOTES[kind]}</p>' if kind in NOTES else ""
        title = TITLES.get(kind, kind)
        parts.append(f'<h3>{html(title)}</h3>{note}<div class="cards{wide}">{"".join(cards)}</div>')
    return "".join(parts)


# ---- each run


def _details(run: Run) -> str:
    problems = "".join(f'<p class="warn">{html(problem)}</p>' for problem in run.problems)
    sessions = "".join(
        f'<dd class="code">{html(session.get("command", "?"))}</dd>'
        f'<dd class="small soft">{html(session.get("started", "?"))}, {html(session.get("device", "?"))}, '
        f"revision {html(session.get('git_revision'))}</dd>"
        for session in run.sessions
    )
    figures = "".join(
        f"<dd>{html(figure.name)} {figure.mean:.8g}"
        + (f" ± {figure.standard_error:.2g}" if figure.standard_error is not None else "")
        + f' {html(figure.unit)} <span class="small soft">{html(figure.source)}: '
        + html(
            "; ".join(
                [
                    *filter(None, [figure.meaning]),
                    *describe_protocol(figure.protocol),
                    *describe_protocol(figure.whose),
                ]
            )
        )
        + "</span></dd>"
        for figure in run.figures
    )
    last = "".join(
        f"<dd>{html(tag)} {points[-1][1]:.6g}</dd>"
        for tag, points in run.curves.items()
        if tag.startswith("train/")
    )
    settings = "".join(
        f'<dd class="code">{html(key)}={html(value)}</dd>' for key, value in run.config.items()
    )
    parts = {"commands": sessions, "figures": figures, "last training figures": last, "settings": settings}
    lists = "".join(f"<dt>{title}</dt>{body}" for title, body in parts.items() if body)
    return (
        f"<details><summary><b>{html(run.label)}</b> model={html(run.family)} data={html(run.data)}, "
        f"{html(run.status)}{'' if run.step is None else f' at step {run.step}'}</summary>"
        f'<p class="code">{html(run.path)}</p>{problems}<dl>{lists}</dl></details>'
    )
