"""Plots as plotly.js takes them, in JSON. Colours of text, grid and background are the page's (assets/site.js).

Panels of a plot lie one upon the other over one axis. Text of a guest goes through `label`. Tests have plotly's own
Python package check what is made here: to make it with that takes ten times as long.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splvm.history.schema import RunRow
from splvm.site.looks import ORDER, by_name, label, printable, symbol, told
from splvm.site.series import Panel, States

# Seen on white, on the dark background and by whoever is blind to a colour (after M. Okabe and K. Ito). None of them
# says anything alone: lines differ in width, dashes and symbols besides, bars in patterns, so that grey print will do.
COLOURS = ("#2b87c8", "#d55e00", "#009e73", "#b565a7", "#7d8a99", "#a07800")


@dataclass(frozen=True, slots=True)
class _Look:
    """How a line is drawn."""

    colour: str
    # Pixels.
    width: float
    dash: str = "solid"
    symbol: str = "circle"
    # Of the symbol, pixels.
    size: int = 7

    def line(self) -> dict[str, Any]:
        return {"color": self.colour, "width": self.width, "dash": self.dash}


# Of the lines of a panel: a narrow line upon a wide one shows both where they have the same values.
_LINES = (_Look(COLOURS[0], 3.5), _Look(COLOURS[1], 1.5, "dash", "diamond-open", 10))

# Of the states of a thread: the letters of /proc/PID/stat that count as it, and its look.
_SLEEPS = "sleeps (S, I)"
_OTHER = "other"
_STATES: Mapping[str, tuple[str, _Look]] = {
    "runs (R)": ("R", _Look(COLOURS[2], 5)),
    "blocked (D)": ("D", _Look(COLOURS[1], 10)),
    _SLEEPS: ("SI", _Look(COLOURS[4], 2)),
    "stopped (T)": ("Tt", _Look(COLOURS[3], 5, "dash")),
    _OTHER: ("", _Look(COLOURS[5], 5, "dot")),
}
_WORDS = {letter: words for words, (letters, _) in _STATES.items() for letter in letters}

_PHASE = _Look(COLOURS[4], 5)
_WINDOW = _Look(COLOURS[1], 10)
# Phases that have a row; the table of phases below the plot has all.
_MOST_PHASES = 40

_PHASES, _THREADS = "<b>phases</b>", "<b>threads</b>"
_PANEL_PX = 130
# Between panels: the title of the lower one, and its legend at the right of it.
_GAP_PX = 44
# Above the first panel's title: plotly's buttons.
_TOP_PX = 70
_BOTTOM_PX = 60
# Of a row with a name, for each line of the name.
_LINE_PX = 15
# Characters in a line of a name; a thread's name has 64 at most, and its pid follows.
_NAME_WIDTH = 26
_NAME_MOST = 100


def plot_run(panels: Sequence[Panel], states: Sequence[States], phases: Sequence[tuple[str, float, float]]) -> str:
    """All series of a run over the guest's clock; each phase has a row, and is shaded."""
    phases = phases[:_MOST_PHASES]
    names = {_PHASES: [_name(name) for name, _, _ in phases], _THREADS: [_name(each.name) for each in states]}
    titles = [_titled(panel.title, panel.unit) for panel in panels]
    heights = {
        **({_PHASES: _rows_px(names[_PHASES])} if phases else {}),
        **dict.fromkeys(titles, _PANEL_PX),
        **({_THREADS: _rows_px(names[_THREADS], 2)} if states else {}),
    }
    layout = _stack(heights, "the guest's clock, s")
    numbers = {title: number for number, title in enumerate(heights, 1)}
    traces: list[dict[str, Any]] = []
    for title, panel in zip(titles, panels, strict=True):
        layout[_axis("yaxis", numbers[title])] |= _from_zero([value for it in panel.series for _, value in it.points])
        traces += _series_traces(panel, numbers[title])
    for title, rows in names.items():
        if rows:
            layout[_axis("yaxis", numbers[title])] |= _rows(rows)
    if states:
        traces += _state_traces(states, names[_THREADS], numbers[_THREADS])
    if phases:
        traces += _phase_traces(phases, names[_PHASES], numbers[_PHASES])
    layout["shapes"] = [_shade(name, start, end, at) for at, (name, start, end) in enumerate(phases)]
    return _to_json(traces, layout)


def _series_traces(panel: Panel, number: int) -> Iterator[dict[str, Any]]:
    """The lines of a panel; one alone needs no legend, as the panel's title says what it is."""
    for series, look in zip(panel.series, _LINES[: len(panel.series)], strict=True):
        yield _scatter(
            x=[time for time, _ in series.points],
            y=[value for _, value in series.points],
            name=series.name,
            yaxis=_axis("y", number),
            legend=_axis("legend", number),
            showlegend=len(panel.series) > 1,
            mode="lines+markers" if len(series.points) < 30 else "lines",
            line=look.line() | {"shape": "hv" if series.steps else "linear"},
            marker={"symbol": look.symbol, "size": look.size},
            cliponaxis=False,
        )


def _state_traces(states: Sequence[States], names: Sequence[str], number: int) -> Iterator[dict[str, Any]]:
    """A bar from each reading to the next; the bars of a state are one trace, so the legend has each state once."""
    bars: dict[str, list[tuple[float, float, str, str]]] = {}
    for each, name in zip(states, names, strict=True):
        ends = [*(at for at, _ in each.points[1:]), each.points[-1][0]]
        for (start, state), end in zip(each.points, ends, strict=True):
            bars.setdefault(_WORDS.get(state, _OTHER), []).append((start, end, name, label(state, 4)))
    for words, (_, look) in _STATES.items():
        if words in bars:
            yield _bars(bars[words], look, number, name=words, legend=_axis("legend", number))


def _phase_traces(
    phases: Sequence[tuple[str, float, float]], names: Sequence[str], number: int
) -> Iterator[dict[str, Any]]:
    """A bar for each phase, with its beginning marked: many are over at once. The window's is as its shade."""
    rows = [
        (start, end, name, f"{start:.3f} to {end:.3f} s") for (_, start, end), name in zip(phases, names, strict=True)
    ]
    windows = [name == "window" for name, _, _ in phases]
    for look, is_window in ((_PHASE, False), (_WINDOW, True)):
        bars = [row for row, it in zip(rows, windows, strict=True) if it == is_window]
        if bars:
            marker = {"symbol": "line-ns", "size": 8, "line": {"color": look.colour, "width": 2}}
            yield _bars(bars, look, number, name="window" if is_window else "phases", showlegend=False, marker=marker)


def _bars(bars: Sequence[tuple[float, float, str, str]], look: _Look, number: int, **more: Any) -> dict[str, Any]:
    """Bars as one line with gaps.

    :param bars: beginning and end, the name of the row, and what is said when pointed at.
    """
    return _scatter(
        x=[x for start, end, _, _ in bars for x in (start, end, None)],
        y=[y for _, _, name, _ in bars for y in (name, name, None)],
        text=[it for _, _, _, text in bars for it in (text, text, "")],
        yaxis=_axis("y", number),
        mode="lines+markers" if "marker" in more else "lines",
        line=look.line(),
        hovertemplate="%{y}: %{text}<extra></extra>",
        **more,
    )


def _name(text: str) -> str:
    """A name whole, on as many lines as it needs."""
    lines = textwrap.wrap(printable(text, _NAME_MOST).replace("\n", " "), _NAME_WIDTH)
    return "<br>".join(label(line) for line in lines) or "?"


def _rows_px(names: Sequence[str], least_lines: int = 1) -> int:
    lines = max(name.count("<br>") + 1 for name in names)
    return len(names) * _LINE_PX * max(least_lines, lines)


def _rows(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a row for each name, the first one at the top."""
    rows = list(dict.fromkeys(names))
    order = {"categoryorder": "array", "categoryarray": rows}
    return {"type": "category", "range": [len(rows) - 0.5, -0.5], "dtick": 1, "tickfont": {"size": 11}, **order}


def _from_zero(values: Sequence[float]) -> dict[str, Any]:
    """An axis on which lines at zero, and at the highest value, are seen in their whole width."""
    top = max(values, default=0.0) or 1.0
    return {"range": [-0.06 * top, 1.08 * top], "nticks": 5}


def _titled(title: str, unit: str) -> str:
    return f"<b>{title}</b>, {unit}" if unit else f"<b>{title}</b>"


def _shade(name: str, start: float, end: float, at: int) -> dict[str, Any]:
    colour = _WINDOW.colour if name == "window" else _PHASE.colour
    opacity = 0.16 if name == "window" else 0.12 if at % 2 else 0.04
    return {
        **{"type": "rect", "xref": "x", "yref": "paper", "x0": start, "x1": end, "y0": 0, "y1": 1},
        **{"fillcolor": colour, "opacity": opacity, "line": {"width": 0}, "layer": "below"},
    }


# As verdict.json names the histograms, and what they count.
_LATENCIES = (
    ("all", "every allocation"),
    ("waited", "those that slept"),
    ("woken", "the part of a sleep after the cache had grown"),
)


def plot_latency(latency: Mapping[str, Any]) -> str:
    """How long allocations took, by powers of two."""
    traces = []
    for at, (kind, words) in enumerate(_LATENCIES):
        buckets = latency.get(kind, {}).get("buckets", {})
        counts = sorted((int(bucket), count) for bucket, count in buckets.items())
        if counts:
            x, y = [_span(bucket) for bucket, _ in counts], [count for _, count in counts]
            pattern = {"shape": ("", "/", ".")[at]}
            traces.append(
                {"type": "bar", "x": x, "y": y, "name": words, "marker": {"color": COLOURS[at], "pattern": pattern}}
            )
    found = sorted({int(bucket) for each in latency.values() for bucket in each.get("buckets", {})})
    # Those without an allocation have their place too.
    order = [_span(bucket) for bucket in range(found[0], found[-1] + 1)] if found else []
    layout = {
        "height": 360,
        "barmode": "group",
        "xaxis": {
            **{"title": {"text": "an allocation took up to", "standoff": 12}, "automargin": True},
            **{"type": "category", "categoryorder": "array", "categoryarray": order, "dtick": 1},
            # Slanted labels end at their bar, and so within the plot.
            "autotickangles": [0, -45, -90],
        },
        "yaxis": {"title": {"text": "allocations", "standoff": 12}, "type": "log", "automargin": True},
        "margin": {"l": 40, "r": 20, "t": _TOP_PX, "b": 40},
        "showlegend": len(traces) > 1,
        "legend": _legend(1.0) | {"x": 0, "xanchor": "left"},
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
    shown = [
        (_titled(words, unit), words, values_by_name[name]) for name, words, unit in figures if name in values_by_name
    ]
    seen = {run.verdict for run in runs}
    order = [f"{symbol(it)} {it}" for it in reversed(ORDER) if it in seen]
    heights = {_titled("verdict", ""): 22 * (len(seen) + 1), **{title: _PANEL_PX for title, _, _ in shown}}
    layout = _stack(heights, "")
    layout["showlegend"] = False
    layout["yaxis"] |= {"type": "category", "categoryorder": "array", "categoryarray": order, "dtick": 1}
    values = [f"{symbol(run.verdict)} {label(run.verdict)}" for run in runs]
    traces = [_points(runs, values, "verdict", 1, pages)]
    for number, (_, words, found) in enumerate(shown, 2):
        layout[_axis("yaxis", number)] |= _from_zero([value for _, value in found])
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
        cliponaxis=False,
    )


def _scatter(**trace: Any) -> dict[str, Any]:
    return {"type": "scatter", **{name: value for name, value in trace.items() if value is not None}}


def _stack(heights: Mapping[str, int], below: str) -> dict[str, Any]:
    """A layout with a panel for each title, all over one axis, the first one at the top; each has a legend of its own.

    :param heights: by title, pixels.
    :param below: what stands below the axis.
    """
    inner = sum(heights.values()) + (len(heights) - 1) * _GAP_PX
    layout: dict[str, Any] = {
        "height": inner + _TOP_PX + _BOTTOM_PX,
        "margin": {"l": 40, "r": 20, "t": _TOP_PX, "b": _BOTTOM_PX},
        "hovermode": "closest",
        "xaxis": {
            **{"title": {"text": below, "standoff": 12}, "anchor": _axis("y", len(heights)), "automargin": True},
        },
        "annotations": [],
    }
    top = 1.0
    for number, (title, height) in enumerate(heights.items(), 1):
        bottom = max(0.0, top - height / inner)
        layout[_axis("yaxis", number)] = {"domain": [bottom, top], "anchor": "x", "automargin": True}
        layout[_axis("legend", number)] = _legend(top)
        layout["annotations"].append(
            {
                **{"text": title, "x": 0, "y": top, "xref": "paper", "yref": "paper"},
                **{"showarrow": False, "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}},
            }
        )
        top = bottom - _GAP_PX / inner
    return layout


def _legend(top: float) -> dict[str, Any]:
    """In one line above a panel, at its right; its title is at the left."""
    return {
        **{"orientation": "h", "x": 1, "xanchor": "right", "y": top, "yanchor": "bottom"},
        **{"bgcolor": "rgba(0,0,0,0)", "font": {"size": 11}},
    }


def _axis(name: str, number: int) -> str:
    return name if number == 1 else f"{name}{number}"


def _to_json(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> str:
    return json.dumps({"data": list(traces), "layout": layout}, separators=(",", ":"), allow_nan=False)
