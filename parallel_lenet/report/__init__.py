"""Pages of HTML about runs: one file each, readable without a network connection."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parallel_lenet.files import write_atomically
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.parameters import Vector
from parallel_lenet.random import generator
from parallel_lenet.report import charts, comparison, insides, pad, page, summary
from parallel_lenet.report.timeline import timeline
from parallel_lenet.runs import RunError
from parallel_lenet.runs.run import Run

MOST = 12  # Runs on a page. The curves of more runs look alike.


def write(runs: Sequence[Run], file: Path) -> None:
    """Write the page about a run, or about several runs side by side.

    The page says what a run lacks. Raises RunError for more than `MOST` runs, ExtraError if jinja2 or matplotlib is
    missing, and OSError if the file can't be written. After an error an existing file is unchanged.
    """
    write_atomically(file, make(runs).encode("utf-8", "backslashreplace"))


def make(runs: Sequence[Run]) -> str:
    """The page that `write` writes, as text. Raises as `write` does."""
    if not 1 <= len(runs) <= MOST:
        raise RunError(f"a report is about 1 to {MOST} runs, got {len(runs)}")
    with page.drawing():
        if len(runs) > 1:
            return comparison.page_of(runs)
        text = _page(runs[0], with_pad=True)
        # The pad takes up to 1.1 MB.
        return text if len(text.encode("utf-8", "backslashreplace")) <= page.LARGEST else _page(runs[0], with_pad=False)


def _page(run: Run, with_pad: bool) -> str:
    model = run.model
    return page.render(
        "report.html",
        scripts=[pad.pad_script()] if model is not None and with_pad and pad.why_not(model) is None else [],
        pad_style=pad.pad_style(),
        **_values(run, model, with_pad),
    )


def _values(run: Run, model: Sequential | None, with_pad: bool) -> dict[str, Any]:
    """The template's values. The notes come last, because reading the files of the run adds notes."""
    checkpoint = run.checkpoint
    predictions = run.predictions
    last_step = float(np.nanmax(run.steps["time"])) if run.steps is not None and len(run.steps) else None
    header, epochs = summary.epoch_rows(run)
    values: dict[str, Any] = {
        "name": run.name,
        "subtitle": summary.subtitle(run),
        "when": summary.period(run),
        "cause_of_end": summary.ending(run),
        "cards": summary.cards(run),
        "learning": charts.learning_curves([run]),
        "epoch_header": header,
        "epochs": epochs,
        "predictions": predictions,
        "has_names": run.class_names is not None,
        "classes": summary.class_names(run),
        "confusion": summary.confusion(run),
        "confusions": summary.confusions(run),
        "mistakes": comparison.mistakes(run),
        "filters": None,
        "maps": [],
        "example": None,
        "example_class": "",
        "why_no_insides": "",
        "speed": charts.speed_curves([run]),
        "times": summary.time_rows(run),
        "workers": summary.worker_rows(run),
        "timeline": timeline(run.events, last_step),
        "pad": None,
        "why_no_pad": "",
        "commands": summary.commands(run),
        "options": summary.options_rows(run),
        "sessions": [summary.session_rows(session) for session in run.sessions[-1:]],
        "starts": len(run.sessions),
        "file": "" if checkpoint is None else Path(checkpoint.path).name,
        "sha256": run.sha256,
    }
    values["events"], values["more_events"] = summary.event_rows(run.events)
    values |= _insides(run, model, with_pad)
    return {**values, "notes": list(dict.fromkeys(run.notes))}


def _insides(run: Run, model: Sequential | None, with_pad: bool) -> dict[str, Any]:
    """The filters, the feature maps of one image and the pad, or why there are none."""
    checkpoint = run.checkpoint
    predictions = run.predictions
    if checkpoint is None:
        return {"why_no_insides": "Without a checkpoint there is nothing to show of the network."}
    if model is None:
        return {
            "why_no_insides": "The model is not made of this package's layers: its filters, its feature maps and a pad "
            "to draw on can't be shown."
        }
    if not np.isfinite(checkpoint.state.parameters).all():
        return {"why_no_insides": "The parameters hold NaN or infinity, so there is nothing to show of the network."}
    values: dict[str, Any] = {
        "filters": insides.filters(model, _initial_parameters(run, model), checkpoint.state.parameters)
    }
    if predictions is not None:
        try:
            values["maps"] = insides.feature_maps(model, checkpoint.state.parameters, predictions.example)
            values["example"] = comparison.example(predictions, model, run.class_names)
            values["example_class"] = page.class_name(run.class_names, predictions.example_label)
        except ValueError:
            run.notes.append("The image of the predictions does not fit the network, so no feature maps are shown.")
    if with_pad:
        values["pad"] = pad.pad_html(model, checkpoint.state.parameters, run.class_names)
    else:
        values["why_no_pad"] = "With the pad to draw on, the page would be too large, so it is left out."
    return values


def _initial_parameters(run: Run, model: Sequential) -> Vector | None:
    """The parameters before the first step, by the run's seed, or None if that is not known."""
    seed = run.options.get("seed")
    if type(seed) is not int or not 0 <= seed < 2**64:
        return None
    return model.initial_parameters(generator(seed))
