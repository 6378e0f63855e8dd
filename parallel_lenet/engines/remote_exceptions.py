"""A model's exception, on its way from a worker to the coordinator."""

import pickle
import traceback
from typing import NoReturn


def pickled_exception(error: BaseException) -> bytes:
    """The exception as itself where it can be pickled and unpickled, with its traceback as text."""
    text = "".join(traceback.format_exception(error))
    for dumps in (pickle.dumps, _cloudpickle):
        try:
            message = bytes(dumps((error, text)))
            pickle.loads(message)
        except Exception:  # An exception can fail to pickle, and to unpickle, in any way it likes.
            continue
        return message
    try:
        described = f"{type(error).__name__}: {error}"
    except Exception:  # And to be printed.
        described = type(error).__name__
    return pickle.dumps((RuntimeError(described), text))


def raise_pickled(exception: bytes, worker: str) -> NoReturn:
    """Raise what `pickled_exception` pickled in a worker, with a note that names the worker and has the traceback."""
    error, text = pickle.loads(exception)
    error.add_note(f"In {worker}:\n{text}")
    raise error


def _cloudpickle(exception: tuple[BaseException, str]) -> bytes:
    """An exception whose class came with the model from the coordinator's ``__main__`` is that class again there."""
    from joblib.externals.loky.backend.reduction import dumps  # Imported lazily: it takes 0.1 s, for failures only.

    return bytes(dumps(exception))
