"""The curves of one run or of several over each other, drawn by Bokeh. Colours are readable on white and on black."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bokeh.embed import components
from bokeh.models import DataRange1d, HoverTool, Range1d
from bokeh.models.formatters import BasicTickFormatter, CustomJSTickFormatter
from bokeh.plotting import figure
from bokeh.resources import Resources

from nemo_workflow.run_dir.metric_table import METRICS, SET_LOSSES, SOURCE_LOSSES, Chart, Metric
from nemo_workflow.run_dir.run import RunFolder

COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")
GREY = "#7c7c7c"  # text on either background
MOST_POINTS = 1600
HEIGHT = 300
# pixels: of a legend in the narrowest of two charts beside each other, of a letter of its labels, and of what stands before one
LEGEND, CHARACTER, SWATCH = 390, 6, 34
LEGEND_ROW = 32  # its height, which a second one mustn't take from the curves
DASHED = "┄"  # behind the label of a dashed curve
LONGEST_NAME = 32  # of a run in a legend
MEAN_OF = 50  # parts of a run, each with a mean of its own
SHORT_NUMBERS = """
for (const [size, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]])
  if (Math.abs(tick) >= size) return parseFloat((tick / size).toPrecision(4)) + unit
return String(parseFloat(tick.toPrecision(6)))
"""  # 1500000 -> 1.5M

Value = Callable[[dict[str, Any]], float | None]


def plotting_script() -> str:
    """Bokeh's own JavaScript as <script> elements, so that the page needs no network."""
    return str(Resources(mode="inline", components=["bokeh"]).render_js())


def draw(runs: list[RunFolder]) -> tuple[str, dict[str, str]]:
    """A <script> element and the <div> of each chart by its title; charts without a value are left out."""
    figures: dict[str, Any] = {}
    charts = _with_sets(runs)
    for chart, axis, series in charts:
        made = _chart(runs, chart, axis, series)
        if made is not None:
            figures[chart.title] = made
    _share_steps([figures[chart.title] for chart, axis, _ in charts if chart.title in figures and axis == "step"])
    if not figures:
        return "", {}
    script, divisions = components(figures)
    return script, dict(divisions)


def _with_sets(runs: list[RunFolder]) -> list[tuple[Chart, str, list[tuple[str, str, Value]]]]:
    """CHARTS, and behind the losses one with a curve for each --validation-dir and one for each source."""
    more = [
        made
        for title, kind, key in (
            ("Loss on each validation set", "validation", SET_LOSSES),
            ("Training loss of each source", "step", SOURCE_LOSSES),
        )
        if (made := _one_each(runs, title, kind, key))
    ]
    return [CHARTS[0], *more, *CHARTS[1:]]


def _one_each(
    runs: list[RunFolder], title: str, kind: str, key: str
) -> tuple[Chart, str, list[tuple[str, str, Value]]] | None:
    """A chart over steps with a curve for each name that events hold under `key`; None where none does."""
    events = (event for run in runs for event in run.of_kind(kind))
    names = dict.fromkeys(name for event in events for name in event.get(key) or {})
    series: list[tuple[str, str, Value]] = [
        (name, kind, lambda event, name=name: (event.get(key) or {}).get(name))  # type: ignore[misc]
        for name in names
    ]
    return (Chart(title, CHARTS[0][0].label), "step", series) if names else None


def _chart(runs: list[RunFolder], spec: Chart, axis: str, series: list[tuple[str, str, Value]]) -> Any:
    chart = figure(
        height=HEIGHT, sizing_mode="stretch_width", x_axis_label=axis, y_axis_label=spec.label, toolbar_location="above",
        tools="pan,box_zoom,wheel_zoom,reset,save", active_scroll=None, active_drag=None, name=spec.title,
    )  # fmt: skip
    _style(chart)
    if spec.from_zero:
        chart.y_range = DataRange1d(start=0)
    lines: list[Any] = []
    labels: dict[str, None] = {}
    for number, run in enumerate(runs):
        factor = run.tokens_a_step if axis == "tokens" else 1
        for offset, (name, kind, value) in enumerate(series):
            points = [(e["step"] * factor, v) for e in run.of_kind(kind) if (v := value(e)) is not None]
            if not points:
                continue
            x, y = zip(*thinned(points), strict=True)
            colour = COLOURS[(number if len(runs) > 1 else offset) % len(COLOURS)]
            legend = name if len(runs) == 1 else f"{shortened(run.name, LONGEST_NAME)}: {name}"
            dash = "dashed" if len(runs) > 1 and offset else "solid"
            if dash == "dashed":  # a legend's piece of line is too short to show it
                legend += f" {DASHED}"
            means = running_means(points) if spec.noisy and kind == "step" else []
            alpha = 0.45 if means else 1.0
            lines.append(
                chart.line(
                    x, y, color=colour, line_width=1.6, alpha=alpha, legend_label=legend, line_dash=dash, name=legend
                )
            )
            labels[legend] = None
            if means:
                x, y = zip(*thinned(means), strict=True)
                mean = f"mean of {width_of_mean(points)} steps"
                label = mean if len(runs) == 1 else legend  # of several runs the name shows and hides both
                labels[label] = None
                lines.append(chart.line(x, y, color=colour, line_width=2, legend_label=label, name=f"{legend}, {mean}"))
            if kind == "validation":
                chart.scatter(x, y, color=colour, size=6, legend_label=legend)
        if len(runs) == 1:
            _mark_resumes(chart, run, factor)
    if not lines:
        return None
    chart.add_tools(HoverTool(tooltips=[("", "$name"), (axis, "$x{0,0}"), ("value", "$y{0.[00000]}")], renderers=lines))
    if len(lines) == 1:
        chart.legend.visible = False
    chart.legend.update(background_fill_alpha=0, border_line_alpha=0, label_text_color=GREY, click_policy="hide")
    chart.legend.update(padding=2, spacing=12, label_text_font_size="12px", orientation="horizontal")
    chart.legend.ncols = columns = columns_that_fit(list(labels))
    chart.height = HEIGHT + LEGEND_ROW * (math.ceil(len(labels) / columns) - 1)
    chart.add_layout(chart.legend[0], "above")  # inside it would lie on a curve sooner or later
    chart.xaxis.formatter = CustomJSTickFormatter(code=SHORT_NUMBERS)
    if not spec.from_zero:
        chart.yaxis.formatter = BasicTickFormatter(power_limit_low=-6)  # 0.0002, not 2.000e-4
    else:
        chart.yaxis.formatter = CustomJSTickFormatter(code=SHORT_NUMBERS)
    return chart


def shortened(name: str, most: int) -> str:
    """A long name without its middle: runs of one series differ at the end."""
    return name if len(name) <= most else f"{name[: most // 3]}…{name[len(name) - (most - most // 3 - 1) :]}"


def columns_that_fit(labels: list[str]) -> int:
    """Columns of a legend in which no label reaches past the narrowest chart."""
    widest = max(len(label) for label in labels) * CHARACTER + SWATCH
    return max(1, min(len(labels), LEGEND // widest))


def _style(chart: Any) -> None:
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    chart.background_fill_alpha = 0
    chart.border_fill_alpha = 0
    chart.outline_line_color = None
    for axis in (chart.xaxis, chart.yaxis):
        axis.update(axis_label_text_color=GREY, major_label_text_color=GREY, axis_line_color=GREY)
        axis.update(major_tick_line_color=GREY, minor_tick_line_color=None, axis_label_text_font_style="normal")
    for grid in (chart.xgrid, chart.ygrid):
        grid.update(grid_line_color=GREY, grid_line_alpha=0.25)


def _mark_resumes(chart: Any, run: RunFolder, factor: int) -> None:
    """A dashed line where a start went on from a checkpoint."""
    at = [start["step"] * factor for start in run.of_kind("start") if start["step"]]
    if at:
        chart.vspan(x=at, line_dash="dashed", line_color=GREY)


def _share_steps(charts: list[Any]) -> None:
    """Zooming into one chart over steps zooms into all of them."""
    ends = [x for chart in charts for line in chart.renderers for x in line.data_source.data["x"]]
    if ends:
        space = (max(ends) - min(ends)) * 0.02 or 1
        shared = Range1d(min(ends) - space, max(ends) + space)
        for chart in charts:
            chart.x_range = shared


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about `most` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return points
    width = -(-len(points) // (most // 2))
    kept = []
    for at in range(0, len(points), width):
        stretch = points[at : at + width]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def width_of_mean(points: list[tuple[float, float]]) -> int:
    """Steps that a running mean takes in: a part of the run; 1 where the run is too short for one."""
    return max(1, len(points) // MEAN_OF)


def means_drawn(run: RunFolder) -> bool:
    """Whether the curves of a run's steps have means."""
    return len(run.of_kind("step")) // MEAN_OF >= 2


def running_means(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each point and those before it, as wide as `width_of_mean` says; empty where that is a single one."""
    width = width_of_mean(points)
    if width < 2:
        return []
    total, means = 0.0, []
    for at, (x, y) in enumerate(points):
        total += y - (points[at - width][1] if at >= width else 0.0)
        if at >= width - 1:
            means.append((x, total / width))
    return means


def _of(metric: Metric) -> Value:
    scale = metric.chart.scale if metric.chart else 1.0
    return lambda event: None if (value := metric.value(event)) is None else value * scale


def _charts() -> list[tuple[Chart, str, list[tuple[str, str, Value]]]]:
    """Each chart with its axis and its series (label, kind of event, value), in the order of the table."""
    shared: dict[Chart, list[tuple[str, str, Value]]] = {}
    for metric in METRICS:
        if metric.chart is not None:
            shared.setdefault(metric.chart, []).append((metric.label, metric.event, _of(metric)))
    made = []
    for chart, series in shared.items():
        made.append((chart, "step", series))
        if chart.by_tokens:
            made.append((replace(chart, title=f"{chart.title} by tokens"), "tokens", series))
    return made


CHARTS = _charts()
