"""A model's exception, on its way from a worker to the coordinator."""

import pickle
import traceback


def failure(error: BaseException) -> bytes:
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


def _cloudpickle(failure: tuple[BaseException, str]) -> bytes:
    """An exception whose class came with the model from the coordinator's ``__main__`` is that class again there."""
    from joblib.externals.loky.backend.reduction import dumps  # Late: 0.1 s, for failures only.

    return bytes(dumps(failure))
