"""The tables of the page: a run a row, runs of a folder or a sweep under one heading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from gentrain.comparison.collect import Run
from gentrain.comparison.comparison import FIRST, Comparison
from gentrain.comparison.differing import differing
from gentrain.comparison.figures import ReportedFigure, describe_protocol
from gentrain.comparison.text import duration, html, number

CHIPS = 4  # settings under the name of a run, at most


def figure_tables(comparison: Comparison) -> str:
    """Figures of files other than FIRST have a table of their own, with the runs that have any."""
    by_source: dict[str, list[ReportedFigure]] = {}
    for column in comparison.columns:
        by_source.setdefault("" if column.source in FIRST else column.source, []).append(column)
    parts = [_figures(comparison, by_source.pop("", []), "")]
    for source, found in by_source.items():
        parts.append(f"<h3>{html(source)}</h3>{_figures(comparison, found, source)}")
    return "".join(parts)


def _figures(comparison: Comparison, found: Sequence[ReportedFigure], source: str) -> str:
    runs = [run for run in comparison.runs if not source or any(f.source == source for f in run.figures)]
    headings = ["run"] if source else ["run", "model", "data", "status"]
    heads = [_heading(name) for name in headings]
    heads += [
        _heading(figure.name, unit=figure.unit, meaning=figure.meaning, floor=_floor(figure))
        for figure in found
    ]
    above = [(len(headings), "")] + [
        (len(list(columns)), ": ".join(filter(None, ["" if source else file, protocol])))
        for (file, protocol), columns in groupby(found, _measured)
    ]
    notes = _chips(comparison)

    def row(run: Run) -> str:
        figures = {figure.column: figure for figure in run.figures}
        cells = "" if source else f"<td>{html(run.family)}</td><td>{html(run.data)}</td>{_status(run)}"
        cells += "".join(_figure(run, figures.get(column.column)) for column in found)
        note = "".join(f'<span class="small">{html(text)}</span>' for text in notes[run.label])
        return f"<th>{html(run.label)}{note}</th>{cells}"

    return _table(comparison, runs, heads, row, above if found else [])


def _measured(figure: ReportedFigure) -> tuple[str, str]:
    return figure.source, "; ".join(describe_protocol(figure.protocol))


def plain_table(comparison: Comparison, headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Words by the label of a run."""

    def row(run: Run) -> str:
        return f"<th>{html(run.label)}</th>" + "".join(f"<td>{html(text)}</td>" for text in rows[run.label])

    return _table(comparison, comparison.runs, [_heading(name) for name in ("run", *headings)], row)


def _table(
    comparison: Comparison,
    runs: Sequence[Run],
    heads: Sequence[str],
    row: Callable[[Run], str],
    above: Sequence[tuple[int, str]] = (),
) -> str:
    """`above`: what a number of neighbouring columns have in common."""
    groups, lines = comparison.groups, []
    for index, (folder, sweep) in enumerate(groups):
        members = [run for run in runs if run.group == (folder, sweep)]
        if not members:
            continue
        if len(groups) > 1:
            hidden = "" if len(groups) < len(comparison.runs) else " hidden"
            text = html(folder)
            text += f' <span class="soft small">a sweep: {html(sweep)}</span>' if sweep else ""
            wide = f'<th colspan="{len(heads)}"><span class="stay">{text}</span></th>'
            lines.append(f'<tr class="group" data-group="{index}"{hidden}>{wide}</tr>')
        lines += [f'<tr data-group="{index}">{row(run)}</tr>' for run in members]
    spans = "".join(f'<th colspan="{count}"><span class="small">{html(t)}</span></th>' for count, t in above)
    top = f"<tr>{spans}</tr>" if spans else ""
    return (
        f'<div class="scroll"><table class="sortable"><thead>{top}<tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _floor(figure: ReportedFigure) -> str:
    """The same figure of real pictures: of a column's first run, since its protocol names the pictures."""
    said = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in figure.floor.items())
    return f"real pictures: {said}" if said else ""


def _heading(name: str, *, unit: str = "", meaning: str = "", floor: str = "") -> str:
    beside = f" <span>{html(unit)}</span>" if unit else ""
    below = "".join(f'<span class="small">{html(text)}</span>' for text in (meaning, floor) if text)
    breakable = html(name).replace("_", "_<wbr>").replace(".", ".<wbr>").replace("[", "<wbr>[")
    return f'<th scope="col"><button type="button">{breakable}</button>{beside}{below}</th>'


def _chips(comparison: Comparison) -> dict[str, list[str]]:
    """By label: the settings in which a run differs from others of its model and data, if they are few."""
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in comparison.runs:
        alike.setdefault((run.family, run.data), []).append(run)
    said = {}
    for runs in alike.values():
        keys = [key for key in differing([run.config for run in runs]) if not key.startswith("device.")]
        shown = keys if len(keys) <= CHIPS else []
        for run in runs:
            said[run.label] = [f"{key}={run.config.get(key)}" for key in shown]
    return said


def _status(run: Run) -> str:
    problems = "".join(f'<div class="warn small">{html(problem)}</div>' for problem in run.problems)
    step = "" if run.step is None else f", step {run.step}"
    return f'<td class="status" data-value="{html(run.status)}">{html(run.status)}{step}{problems}</td>'


def _figure(run: Run, figure: ReportedFigure | None) -> str:
    """With what sets it apart from the run's other figures: an earlier step, weights that are no average."""
    if figure is None:
        return "<td></td>"
    error = "" if figure.standard_error is None else f" ± {figure.standard_error:.2g}"
    text = duration(figure.mean) if figure.unit == "s" else number(figure.mean)
    notes = []
    if figure.whose.get("step") not in (None, run.step):
        notes.append(f"step {figure.whose['step']}")
    if figure.whose.get("weights") not in (None, "averaged weights"):
        notes.append(str(figure.whose["weights"]))
    below = f'<div class="soft small">{html(", ".join(notes))}</div>' if notes else ""
    return f'<td class="number" data-value="{figure.mean!r}">{html(text + error)}{below}</td>'
