"""The figures and tables of a run for its page."""

import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from parallel_lenet.display import count, percent
from parallel_lenet.report import page
from parallel_lenet.report.timeline import sessions
from parallel_lenet.runs.environment import Session
from parallel_lenet.runs.events import Event
from parallel_lenet.runs.run import Run

Row = Sequence[str]

RECIPE_NOTE = (
    "Images held out of MNIST's training images decided the options of the recipe. Test images decided nothing."
)
MOST_EVENTS = 60  # In the list.
MOST_CLASSES = 40  # Classes that a table of confusions has, at most.


def last_number(run: Run, name: str) -> float:
    """A number of the last epoch, or NaN if it is not known."""
    return float(run.epochs[-1].get(name, math.nan)) if run.epochs else math.nan


def smooths_labels(run: Run) -> bool:
    """Whether the run trained with label smoothing, so that its training loss is not the plain one."""
    smoothing = run.options.get("label_smoothing")
    return isinstance(smoothing, float) and smoothing > 0


def cards(run: Run) -> list[tuple[str, str, str]]:
    """The most important figures: label, value, and a remark."""
    found: list[tuple[str, str, str]] = []
    for part in ("test", "validation"):
        accuracy = last_number(run, f"{part}_accuracy")
        if math.isfinite(accuracy):
            images = last_number(run, f"{part}_images")
            of = f"of {count(int(images), 'image')}" if math.isfinite(images) else ""
            found.append((f"{part.capitalize()} accuracy", percent(accuracy), of))
            found.append((f"{part.capitalize()} loss", _decimals(last_number(run, f"{part}_loss")), ""))
    if run.epochs:
        labels = ", with smoothed labels" if smooths_labels(run) else ""
        found.append(("Training loss", _decimals(last_number(run, "train_loss")), f"mean of the last epoch{labels}"))
        seconds = math.fsum(line.get("seconds", 0.0) for line in run.epochs)
        steps = last_number(run, "step")
        found.append(("Training time", duration(seconds), count(int(steps), "step") if math.isfinite(steps) else ""))
        images = math.fsum(line.get("seconds", 0.0) * line.get("images_per_second", 0.0) for line in run.epochs)
        if seconds > 0 and math.isfinite(images):
            workers = run.options.get("workers")
            by = f"with {count(workers, 'worker')}" if type(workers) is int and workers > 0 else ""
            found.append(("Images per second", f"{images / seconds:,.0f}", by))
    return found


def _decimals(number: float) -> str:
    return f"{number:.4f}" if math.isfinite(number) else "not finite"


def duration(seconds: float) -> str:
    """``0.4 s``, ``2 min 5 s``, ``3 h 20 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def subtitle(run: Run) -> str:
    """A sentence about the network, the data, and how the run ended."""
    parts = []
    checkpoint = run.checkpoint
    if checkpoint is not None and run.model is not None:
        parts.append(f"A network of {count(len(checkpoint.state.parameters), 'parameter')}")
    elif checkpoint is not None:
        parts.append(f"A model of your own, with {count(len(checkpoint.state.parameters), 'parameter')}")
    data = run.options.get("data_dir") or run.options.get("dataset")
    if data is not None:
        images = run.data.get("train")
        parts.append(f"trained on {data}" + (f" ({count(images, 'image')})" if type(images) is int else ""))
    if isinstance(run.options.get("recipe"), str):
        parts.append(f"by the recipe {run.options['recipe']}")
    ends = {"interrupted": "interrupted", "failed": "ended by an error", "unfinished": "not finished"}
    if run.state in ends:
        parts.append(ends[run.state])
    sentence = ", ".join(parts) + "." if parts else ""
    return f"{sentence} {RECIPE_NOTE}" if isinstance(run.options.get("recipe"), str) else sentence


def period(run: Run) -> str:
    """The time of the run, from its first to its last event or step, in UTC."""
    times = [event.time for event in run.events]
    if run.steps is not None and len(run.steps):
        times.append(float(np.nanmax(run.steps["time"])))
    if not times:
        return ""
    begin = _date(min(times))
    end = _date(max(times))
    if begin == end:
        return f"{begin} UTC"
    same_day = begin[:10] == end[:10] and begin[:1].isdigit()
    return f"{begin} to {end[11:] if same_day else end} UTC"


def ending(run: Run) -> str:
    """Why the program ended before the training was done. Empty if it was done, or if it is not known."""
    last = next((event for event in reversed(run.events) if event.kind != "epoch"), None)
    if last is not None and last.kind == "failed":
        return f"It ended by an error: {last.text}."
    if last is not None and last.kind == "interrupted":
        return (
            f"It was stopped after {count(last.epoch, 'epoch')}, step {last.step:,} ({last.text}). It can be resumed."
        )
    return ""


def _date(seconds: float) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "an unknown time"


def epoch_rows(run: Run) -> tuple[Row, list[Row]]:
    """The last ten epochs: header and rows."""
    possible = [f"{part}_{metric}" for part in ("train", "validation", "test") for metric in ("loss", "accuracy")]
    names = [name for name in possible if any(math.isfinite(line.get(name, math.nan)) for line in run.epochs)]
    header = ("epoch", "steps", *(name.replace("_", " ").replace("train", "training") for name in names), "seconds")
    rows: list[Row] = [
        (
            f"{line['epoch']:,}",
            f"{line.get('step', math.nan):,.0f}",
            *(
                percent(value) if name.endswith("accuracy") else _decimals(value)
                for name in names
                for value in [line.get(name, math.nan)]
            ),
            f"{line.get('seconds', math.nan):.2f}",
        )
        for line in run.epochs[-10:]
    ]
    return header, rows


def time_rows(run: Run) -> list[Row]:
    """The parts of the run's time: name, seconds and share."""
    steps = run.steps
    events = run.events
    if steps is None or not len(steps):
        return []
    total = float(np.nansum(steps["seconds"]))
    parts = {name: float(np.nansum(steps[name])) for name in ("waiting", "adding", "updating")}
    seconds_by_part = {
        "waiting for gradients": parts["waiting"],
        "adding gradients": parts["adding"],
        "updating parameters": parts["updating"],
        "the rest of the steps": max(0.0, total - sum(parts.values())),
        "evaluating": math.fsum(event.evaluating for event in events),
        "writing checkpoints": math.fsum(event.saving for event in events),
    }
    running = math.fsum(span.end - span.begin for span in sessions(events, float(np.nanmax(steps["time"]))))
    seconds_by_part["the rest: starting, compiling, reading"] = max(0.0, running - math.fsum(seconds_by_part.values()))
    total_seconds = sum(seconds_by_part.values()) or 1.0
    return [(name, f"{seconds:.2f}", f"{seconds / total_seconds:.1%}") for name, seconds in seconds_by_part.items()]


def worker_rows(run: Run) -> list[Row]:
    """For each worker its steps, its seconds, and its share of the steps' time."""
    steps = run.steps
    if steps is None or not len(steps):
        return []
    total = float(np.nansum(steps["seconds"])) or 1.0
    return [
        (f"worker {i}", f"{np.nansum(each > 0):,}", f"{np.nansum(each):.2f}", f"{np.nansum(each) / total:.1%}")
        for i, each in enumerate(steps.workers.T)
    ]


def event_rows(events: Sequence[Event]) -> tuple[list[Row], int]:
    """The first events other than epochs (time, position, kind, text), and the number of further ones."""
    start = events[0].time if events else 0.0
    other_events = [event for event in events if event.kind != "epoch"]
    rows: list[Row] = [
        (
            f"{event.time - start:,.1f} s",
            f"{count(event.epoch, 'epoch')}, step {event.step:,}",
            NAMES.get(event.kind, event.kind),
            event.text,
        )
        for event in other_events[:MOST_EVENTS]
    ]
    return rows, len(other_events) - len(rows)


NAMES = {"worker": "worker lost", "skipped": "step skipped"}


def confusion(run: Run) -> list[list[tuple[int, float]]] | None:
    """For each class how many of its images were taken for each class, and the share of the row."""
    found = run.predictions
    if found is None or found.classes > MOST_CLASSES:
        return None
    table = found.confusion()
    return [[(int(n), float(n) / max(1, int(row.sum()))) for n in row] for row in table]


def class_names(run: Run) -> list[str]:
    """The classes of the table of confusions, in order, as the page shows them."""
    classes = 0 if run.predictions is None else run.predictions.classes
    return [page.class_name(run.class_names, label) for label in range(min(classes, MOST_CLASSES))]


def confusions(run: Run) -> list[Row]:
    """The ten pairs of classes that were confused most: the class, the predicted class, and how often."""
    predictions = run.predictions
    if predictions is None or predictions.classes > 10 * MOST_CLASSES:
        return []
    table = predictions.confusion()
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:10]
    pairs = [(int(i) // predictions.classes, int(i) % predictions.classes) for i in order if table.flat[i]]
    names = run.class_names
    return [
        (page.class_name(names, label), page.class_name(names, predicted), f"{table[label, predicted]:,}")
        for label, predicted in pairs
    ]


def options_rows(run: Run) -> list[Row]:
    """All options of the last start."""
    return [(name.replace("_", "-"), _option_text(value)) for name, value in run.options.items()]


def _option_text(value: Any) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def session_rows(session: Session) -> list[Row]:
    """Versions and machine of one start."""
    machine = session["machine"]
    data = session["data"]
    blas = machine.get("blas")
    memory = machine.get("memory_bytes")
    rows: list[Row] = [
        ("started", session["started"]),
        ("processor", str(machine.get("processor"))),
        ("cores", f"{machine.get('usable_cores')} usable of {machine.get('cores')}"),
        ("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else "unknown"),
        ("system", str(machine.get("system"))),
        ("BLAS", ", ".join(map(str, blas)) if isinstance(blas, list) else str(blas)),
        *((str(name), str(version)) for name, version in session["versions"].items()),
        *((str(name), str(value)) for name, value in session["variables"].items()),
    ]
    if data:
        images = f"{data.get('train')} training and {data.get('test')} test images"
        rows.append(("data", f"{images}, SHA-256 {data.get('sha256')}"))
    return rows


def commands(run: Run) -> list[str]:
    """The commands that give the same result again, one after the other.

    There are several if the run was continued with other --epochs, which changed the schedule of the learning rate.
    """
    if not run.sessions:
        return []
    starts = [event for event in run.events if event.kind in ("started", "resumed")]
    found = [run.sessions[-1]["repeat"]]
    parts = [session["options"].get("epochs") for session in run.sessions]
    if len(set(map(str, parts))) == 1 or len(starts) != len(run.sessions):
        return found
    found = []
    for i, session in enumerate(run.sessions):
        if i and parts[i] == parts[i - 1]:
            continue
        later = next((j for j in range(i + 1, len(parts)) if parts[j] != parts[i]), None)
        continuation = f"parallel-lenet train --resume again --epochs {parts[i]}"
        words = continuation if i else f"{session['repeat']} --out again"
        if later is not None:
            words += f" --max-steps {starts[later].step}"
        elif i and session["options"].get("max_steps") is not None:
            words += f" --max-steps {session['options']['max_steps']}"
        found.append(words)
    return found
