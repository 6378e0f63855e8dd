"""The timeline of a run: the times when it ran, and its events."""

from collections.abc import Sequence
from typing import NamedTuple

from parallel_lenet.report import page
from parallel_lenet.report.page import LINE, SERIES, Html
from parallel_lenet.runs.events import Event

MARKS = {  # By kind: the row, the mark and the colour.
    "resumed": ("resumed", "^", SERIES[2]),
    "worker": ("worker lost", "x", SERIES[4]),
    "skipped": ("step skipped", "v", SERIES[1]),
    "resized": ("resized", "D", SERIES[3]),
    "warning": ("warning", "s", SERIES[1]),
    "interrupted": ("interrupted", "|", SERIES[4]),
    "failed": ("failed", "X", SERIES[4]),
}
MOST_MARKS = 400  # Of a kind.
UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


class Session(NamedTuple):
    """From a start of the program to its end, in seconds since the first start."""

    begin: float
    end: float


def sessions(events: Sequence[Event], last_step: float | None) -> list[Session]:
    """The times in which the program ran. A program that was killed counts up to its last event or step."""
    found: list[Session] = []
    begin = 0.0
    for i, event in enumerate(events):
        if event.kind in ("started", "resumed"):
            begin = event.time
        following = events[i + 1].kind if i + 1 < len(events) else "resumed"
        if following in ("started", "resumed"):
            end = event.time
            if i + 1 == len(events) and last_step is not None:
                end = max(end, last_step)
            found.append(Session(begin, max(begin, end)))
    return found


def timeline(events: Sequence[Event], last_step: float | None = None) -> Html | None:
    """The picture, or None without events. Call it within `page.drawing`."""
    spans = sessions(events, last_step)
    if not spans:
        return None
    start = spans[0].begin
    end = max(span.end for span in spans)
    seconds, unit = next((each for each in UNITS if end - start >= 2 * each[0]), UNITS[-1])
    kinds = [kind for kind in MARKS if any(event.kind == kind for event in events)]
    epochs = [event.time for event in events if event.kind == "epoch"]
    rows = ["running", *(["epoch done"] if epochs else []), *(MARKS[kind][0] for kind in kinds)]
    height = 46 + 24 * len(rows)
    figure = page.figure(860, height, margins=(92, 14, 8, 38))
    axes = figure.subplots()
    for span in spans:
        width = max(span.end - span.begin, (end - start) / 500, 1e-3)
        axes.barh(0, width / seconds, left=(span.begin - start) / seconds, height=0.42, color=SERIES[0], linewidth=0)
    times = {"epoch done": epochs}
    for kind in kinds:
        times[MARKS[kind][0]] = [event.time for event in events if event.kind == kind]
    styles = {row: (mark, colour) for row, mark, colour in MARKS.values()}
    for y, row in enumerate(rows[1:], 1):
        marks = times[row]
        marks = marks[:: -(-len(marks) // MOST_MARKS)]
        mark, colour = styles.get(row, ("|", SERIES[5]))
        x = [(time - start) / seconds for time in marks]
        axes.plot(x, [y] * len(x), mark, color=colour, markersize=6, markeredgewidth=1.4, linestyle="none")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(False)
    axes.grid(True, axis="x", color=LINE)
    axes.set_xlabel(f"{unit} since the start")
    axes.margins(x=0.01)
    event_counts = ", ".join(f"{len(times[row]):,} x {row}" for row in rows[1:])
    ran = f"{len(spans)} time{'s' * (len(spans) > 1)}"
    return page.svg(figure, f"Timeline of {(end - start) / seconds:.3g} {unit}: the program ran {ran}. {event_counts}")
