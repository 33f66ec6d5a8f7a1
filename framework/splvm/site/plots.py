"""Plots as plotly.js takes them, in JSON. Colours of text, grid and background are the page's (assets/site.js).

Panels of a plot lie one upon the other over one axis. Text of a guest goes through `label`. Tests have plotly's own
Python package check what is made here: to make it with that takes ten times as long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from splvm.history.schema import RunRow
from splvm.site.looks import ORDER, by_name, label, symbol, told
from splvm.site.series import Panel, States

# Told apart by whoever is blind to a colour (after M. Okabe and K. Ito), and seen on white and on black.
COLOURS = ("#2b87c8", "#d55e00", "#009e73", "#b565a7", "#7d8a99", "#a07800")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

# Colours and words for states of a thread.
_STATES: Mapping[str, tuple[str, str]] = {
    "R": ("runs", "#009e73"),
    "S": ("sleeps", "#7d8a99"),
    "I": ("idle", "#7d8a99"),
    "D": ("blocked", "#d55e00"),
    "T": ("stopped", "#b565a7"),
}
_PANEL_PX = 130
_GAP_PX = 44
_TOP_PX = 110
_BOTTOM_PX = 70


def plot_run(panels: Sequence[Panel], states: Sequence[States], phases: Sequence[tuple[str, float, float]]) -> str:
    """All series of a run over the guest's clock; the phases are shaded."""
    titles = [panel.title for panel in panels] + (["threads"] if states else [])
    layout = _stack(dict.fromkeys(titles, _PANEL_PX), "the guest's clock, s")
    traces: list[dict[str, Any]] = []
    for number, panel in enumerate(panels, 1):
        layout[_axis("yaxis", number)] |= {"title": {"text": panel.unit}, "rangemode": "tozero"}
        for at, series in enumerate(panel.series):
            traces.append(
                _scatter(
                    x=[time for time, _ in series.points],
                    y=[value for _, value in series.points],
                    name=series.name,
                    yaxis=_axis("y", number),
                    mode="lines+markers" if len(series.points) < 30 else "lines",
                    line={"shape": "hv" if series.steps else "linear", "color": COLOURS[at], "dash": _DASHES[at]},
                )
            )
    if states:
        layout[_axis("yaxis", len(titles))] |= {"type": "category"}
        traces += [trace for each in states for trace in _state_traces(each, len(titles))]
    layout["shapes"] = [_shade(name, start, end, at) for at, (name, start, end) in enumerate(phases)]
    layout["annotations"] += [
        {
            **{"text": name, "x": start, "y": 1, "xref": "x", "yref": "paper", "showarrow": False, "yshift": 16},
            **{"textangle": -50, "xanchor": "left", "yanchor": "bottom", "font": {"size": 10}},
        }
        for name, start in _named(phases)
    ]
    return _to_json(traces, layout)


def _named(phases: Sequence[tuple[str, float, float]]) -> list[tuple[str, float]]:
    """Names of phases and where they stand; those that begin too close to each other stand together."""
    named: list[tuple[str, float]] = []
    apart = (phases[-1][2] - phases[0][1]) / 60 if phases else 0.0
    for name, start, _ in phases:
        if named and start - named[-1][1] < apart:
            named[-1] = (f"{named[-1][0]}, {label(name, 30)}", named[-1][1])
        else:
            named.append((label(name, 30), start))
    return named


def _state_traces(states: States, number: int) -> list[dict[str, Any]]:
    """A bar from each reading to the next, one trace for each state."""
    traces = []
    ends = [*(at for at, _ in states.points[1:]), states.points[-1][0]]
    for state in dict.fromkeys(state for _, state in states.points):
        word, colour = _STATES.get(state, ("other", "#a07800"))
        spans = [(a, b) for (a, it), b in zip(states.points, ends, strict=True) if it == state]
        traces.append(
            _scatter(
                x=[x for a, b in spans for x in (a, b, None)],
                y=[y for _ in spans for y in (label(states.name), label(states.name), None)],
                name=f"{state} ({word})",
                legendgroup=state,
                yaxis=_axis("y", number),
                mode="lines",
                line={"color": colour, "width": 10 if state == "D" else 6},
                hovertemplate=f"{label(states.name)}: {state}, {word}<extra></extra>",
            )
        )
    return traces


def _shade(name: str, start: float, end: float, at: int) -> dict[str, Any]:
    colour = "#d55e00" if name == "window" else "#7d8a99"
    opacity = 0.16 if name == "window" else 0.12 if at % 2 else 0.04
    return {
        **{"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1},
        **{"fillcolor": colour, "opacity": opacity, "line": {"width": 0}, "layer": "below"},
    }


def plot_latency(latency: Mapping[str, Any]) -> str:
    """How long allocations took, by powers of two."""
    traces = []
    for at, (kind, words) in enumerate((("all", "all"), ("waited", "slept"), ("woken", "from the growth's end on"))):
        buckets = latency.get(kind, {}).get("buckets", {})
        counts = sorted((int(bucket), count) for bucket, count in buckets.items())
        if counts:
            x, y = [_span(bucket) for bucket, _ in counts], [count for _, count in counts]
            pattern = {"shape": ("", "/", ".")[at]}
            traces.append(
                {"type": "bar", "x": x, "y": y, "name": words, "marker": {"color": COLOURS[at], "pattern": pattern}}
            )
    order = sorted({int(bucket) for each in latency.values() for bucket in each.get("buckets", {})})
    layout = {
        "height": 320,
        "barmode": "group",
        "xaxis": {
            "title": {"text": "an allocation took up to"},
            **{"type": "category", "categoryorder": "array", "categoryarray": [_span(bucket) for bucket in order]},
        },
        "yaxis": {"title": {"text": "allocations"}, "type": "log"},
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "showlegend": len(traces) > 1,
    }
    return _to_json(traces, layout)


def _span(bucket: int) -> str:
    ns = 2 ** (bucket + 1)
    return next(
        f"{ns / size:.3g} {unit}" for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1)) if ns >= size
    )


def plot_trend(runs: Sequence[RunRow], figures: Sequence[tuple[str, str, str]], pages: Mapping[str, str]) -> str:
    """Verdicts and figures of a cell over time; points of runs that have a page link to it.

    :param runs: the oldest first.
    :param figures: name, words and unit of each figure.
    :param pages: names of pages by the run's id.
    """
    values_by_name = by_name(runs)
    shown = [(words, unit, values_by_name[name]) for name, words, unit in figures if name in values_by_name]
    seen = {run.verdict for run in runs}
    order = [f"{symbol(it)} {it}" for it in reversed(ORDER) if it in seen]
    heights = {"verdict": 40 + 22 * len(seen), **{words: _PANEL_PX for words, _, _ in shown}}
    layout = _stack(heights, "")
    layout["showlegend"] = False
    layout["yaxis"] |= {"type": "category", "categoryorder": "array", "categoryarray": order, "dtick": 1}
    values = [f"{symbol(run.verdict)} {label(run.verdict)}" for run in runs]
    traces = [_points(runs, values, "verdict", 1, pages)]
    for number, (words, unit, found) in enumerate(shown, 2):
        layout[_axis("yaxis", number)] |= {"title": {"text": unit}, "rangemode": "tozero"}
        these = [run for run, _ in found]
        traces.append(_points(these, [float(f"{value:.6g}") for _, value in found], words, number, pages))
    return _to_json(traces, layout)


def _points(
    runs: Sequence[RunRow], values: Sequence[Any], name: str, number: int, pages: Mapping[str, str]
) -> dict[str, Any]:
    return _scatter(
        x=[f"{run.started:%Y-%m-%d %H:%M:%S}" for run in runs],
        y=list(values),
        name=name,
        yaxis=_axis("y", number),
        mode="markers" if number == 1 else "lines+markers",
        line={"color": COLOURS[4], "width": 1},
        marker={
            "size": 9,
            "color": [COLOURS[0] if run.as_expected else COLOURS[1] for run in runs],
            "symbol": ["circle" if run.as_expected else "x" for run in runs],
        },
        customdata=[f"../runs/{pages[run.id]}" if run.id in pages else "" for run in runs],
        text=[told(run) for run in runs] if number == 1 else None,
    )


def _scatter(**trace: Any) -> dict[str, Any]:
    return {"type": "scatter", **{name: value for name, value in trace.items() if value is not None}}


def _stack(heights: Mapping[str, int], below: str) -> dict[str, Any]:
    """A layout with a panel for each title, all over one axis, the first one at the top.

    :param heights: by title, pixels.
    :param below: what stands below the axis.
    """
    inner = sum(heights.values()) + (len(heights) - 1) * _GAP_PX
    layout: dict[str, Any] = {
        "height": inner + _TOP_PX + _BOTTOM_PX,
        "margin": {"l": 130, "r": 20, "t": _TOP_PX, "b": _BOTTOM_PX},
        "hovermode": "closest",
        "xaxis": {"title": {"text": below}, "anchor": _axis("y", len(heights))},
        "annotations": [],
        "legend": {"orientation": "h", "y": -40 / inner, "yanchor": "top"},
    }
    top = 1.0
    for number, (title, height) in enumerate(heights.items(), 1):
        bottom = max(0.0, top - height / inner)
        layout[_axis("yaxis", number)] = {"domain": [bottom, top], "anchor": "x"}
        layout["annotations"].append(
            {
                **{"text": f"<b>{title}</b>", "x": 0, "y": top, "xref": "paper", "yref": "paper"},
                **{"showarrow": False, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}},
            }
        )
        top = bottom - _GAP_PX / inner
    return layout


def _axis(name: str, number: int) -> str:
    return name if number == 1 else f"{name}{number}"


def _to_json(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    return json.dumps({"data": list(traces), "layout": layout}, separators=(",", ":"), allow_nan=False)
