"""Sends a model's exception from a worker to the coordinator."""

import pickle
import traceback
from typing import NoReturn


def pickled_exception(error: BaseException) -> bytes:
    """The exception, pickled, with its traceback as text. If it cannot be pickled, a RuntimeError with its text."""
    text = "".join(traceback.format_exception(error))
    for dumps in (pickle.dumps, _cloudpickle):
        try:
            message = bytes(dumps((error, text)))
            pickle.loads(message)
        except Exception:  # Pickling and unpickling an exception can raise anything.
            continue
        return message
    try:
        description = f"{type(error).__name__}: {error}"
    except Exception:  # Printing it can raise anything too.
        description = type(error).__name__
    return pickle.dumps((RuntimeError(description), text))


def raise_pickled(exception: bytes, worker: str) -> NoReturn:
    """Raise what `pickled_exception` pickled in a worker, with a note that names the worker and has the traceback."""
    error, text = pickle.loads(exception)
    error.add_note(f"In {worker}:\n{text}")
    raise error


def _cloudpickle(exception: tuple[BaseException, str]) -> bytes:
    """Pickled by cloudpickle, which knows classes that came with the model from the coordinator's ``__main__``."""
    from joblib.externals.loky.backend.reduction import dumps  # Imported lazily: it takes 0.1 s, for failures only.

    return bytes(dumps(exception))
