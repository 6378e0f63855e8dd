"""LeNet-5 as a classifier of scikit-learn: for pipelines, cross-validation and searches (extra ``sklearn``).

The numbers are those of a `Coordinator` with the same network, `Adam` and seed, bit for bit, for any ``n_jobs``.

The file is long because the class is a public interface whose parameters and attributes are documented in one place.
"""

import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Self

import joblib
import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.checkpoint import TrainingState
from parallel_lenet.checks import FRACTION, NOT_NEGATIVE, POSITIVE, quoted, real_number, whole_number
from parallel_lenet.coordinator import Coordinator
from parallel_lenet.cores import count_workers
from parallel_lenet.datasets import Dataset
from parallel_lenet.datasets.arrays import arrange, shape_of_one
from parallel_lenet.network import pixels
from parallel_lenet.network.fitted import settings_for
from parallel_lenet.network.lenet5 import lenet5
from parallel_lenet.network.sequential import Sequential
from parallel_lenet.optimizers import Adam
from parallel_lenet.reports import EpochReport
from parallel_lenet.trained import TrainedModel

PURPOSE = "parallel_lenet.sklearn"
base: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.base")
class_weights: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.utils.class_weight")
utils: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.utils")
model_selection: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.model_selection")
multiclass: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.utils.multiclass")
validation: Any = optional.load("sklearn", "sklearn", PURPOSE, "sklearn.utils.validation")

Array = NDArray[Any]

LONGEST_LINE = 32  # Rows of up to 32 numbers that are not a square are images one pixel high.
MOST_SEEDS = 2**31 - 1
NO_LABELS = "no_validation"  # As in scikit-learn, which asks for labels if they are None.


class _Network(Sequential):
    """A network that takes pixels of any size: features that differ are ordinary in scikit-learn."""

    def check_images(self, inputs: Array) -> None:
        """Raises ValueError unless these are images of the network's size."""
        self.images.channels_first(inputs)


class LeNetClassifier(base.ClassifierMixin, base.BaseEstimator):  # type: ignore[misc]
    """LeNet-5 for images, trained by Adam with exact data-parallel gradients.

    ``X`` holds images: ``(n, h, w)``, ``(n, c, h, w)``, ``(n, h, w, c)``, or rows of pixels ``(n, pixels)``. Integers
    and floats of any range are scaled by what the images given to ``fit`` say: 0 to 255, 0 to 1, 0 to 16, -1 to 1 and
    so on, or as they are if some are negative. Then they are normalised by their mean and deviation, for each channel.
    ``predict`` scales in the same way. ``y`` may be labels of any type.

    - ``image_shape``: the shape of one image, ``(h, w)``, ``(c, h, w)`` or ``(h, w, c)``, for rows of pixels. By
      default a square number of pixels is a square image, and up to 32 numbers are one line. Other rows need it.
    - ``channels``: "first" or "last" if that is not clear from the shape of the images.
    - ``activation``, ``pooling``, ``kernel``: as in `lenet5`.
    - ``batch_size``: images per step, over all workers together.
    - ``learning_rate_init``: the learning rate of Adam.
    - ``max_iter``: the most epochs per ``fit``.
    - ``tol``, ``n_iter_no_change``: training stops after ``n_iter_no_change`` epochs in a row in which the loss (with
      ``early_stopping`` the validation score) is not better by ``tol`` than the best one before.
    - ``early_stopping``: hold out ``validation_fraction`` of the images, of each class the same part, score them after
      each epoch, and keep the parameters of the best epoch.
    - ``warm_start``: ``fit`` continues the training before it. Two calls with ``max_iter=5`` give the bits of one with
      ``max_iter=10``.
    - ``class_weight``: weights of classes by label, or "balanced". They multiply the ``sample_weight`` of ``fit``.
    - ``random_state``: an int is the coordinator's seed. A ``RandomState``, or None, draws one.
    - ``n_jobs``: worker processes, as in joblib: None is 1 or the number of ``joblib.parallel_config``, and -1 is all
      cores. With 1 this process computes. Inside a parallel job of joblib, None is 1 and -1 is the job's share of the
      cores.
    - ``verbose``: print a line per epoch.

    Attributes after ``fit``:

    - ``classes_``: the labels, sorted.
    - ``n_features_in_``: numbers per image.
    - ``n_iter_``: epochs so far.
    - ``loss_curve_``, ``loss_``: the mean loss of each epoch, and of the last one.
    - ``validation_scores_``, ``best_validation_score_``: the accuracy after each epoch, and the best of them. Both are
      None without ``early_stopping``.
    - ``settings_``: the arguments of `lenet5`.
    - ``parameters_``: the network's parameters.

    >>> import numpy as np
    >>> from parallel_lenet import load_dataset
    >>> train, test = load_dataset()
    >>> classifier = LeNetClassifier(max_iter=3, random_state=0).fit(train.inputs[:500], train.targets[:500])
    >>> classifier.predict(test.inputs[:4]).shape, classifier.n_iter_
    ((4,), 3)
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, ...] | None = None,
        channels: str | None = None,
        activation: str = "tanh",
        pooling: str = "avg",
        batch_size: int = 64,
        learning_rate_init: float = 0.002,
        max_iter: int = 20,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        class_weight: Any = None,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: bool | int = False,
        kernel: str = "auto",
    ) -> None:
        self.image_shape = image_shape
        self.channels = channels
        self.activation = activation
        self.pooling = pooling
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.class_weight = class_weight
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.kernel = kernel

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on images and their labels, with a weight for each image if ``sample_weight`` is given.

        Raises ValueError if a parameter is out of its range, if the images or labels can't be used, or if there are
        fewer than two classes. After an error or an interrupt there are no workers, and the estimator is as before.
        """
        self._check_parameters()
        with self._restore_after_error():
            continues = self.warm_start and hasattr(self, "_state")
            images, labels = self._arrange(X, y, reset=not continues)
            classes, targets = np.unique(labels, return_inverse=True)
            if continues and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"warm_start continues with the same classes, {quoted(self.classes_.tolist())}, "
                    f"got {quoted(classes.tolist())}"
                )
            data = _dataset(images, targets, self._weights(images, labels, sample_weight))
            if not continues:
                self._begin(data, classes)
            train, held_out = self._split(data) if self.early_stopping else (data, None)
            self._train(train, held_out, self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train one epoch on these images. The first call needs ``classes``, all labels that there will be.

        The first call also decides how images are scaled. Raises ValueError as ``fit`` does, and for
        ``early_stopping`` and ``class_weight="balanced"``, which need all images.
        """
        self._check_parameters()
        if self.early_stopping:
            raise ValueError("partial_fit does not hold out images: it needs early_stopping=False")
        if isinstance(self.class_weight, str):
            raise ValueError(f"partial_fit does not know all labels: class_weight={self.class_weight!r} needs fit")
        with self._restore_after_error():
            begins = not hasattr(self, "_state")
            if begins and classes is None:
                raise ValueError("the first call of partial_fit needs classes, all labels that there will be")
            images, labels = self._arrange(X, y, reset=begins)
            known = np.unique(classes) if begins else self.classes_
            if classes is not None and not np.array_equal(np.unique(classes), known):
                raise ValueError(
                    f"classes must be those of the first call, {quoted(known.tolist())}, got {quoted(classes)}"
                )
            if not np.isin(labels, known).all():
                unknown = labels[~np.isin(labels, known)].tolist()[0]
                raise ValueError(f"label {quoted(unknown)} is not one of the classes, {quoted(known.tolist())}")
            data = _dataset(images, np.searchsorted(known, labels), self._weights(images, labels, sample_weight))
            if begins:
                self._begin(data, known)
            self._train(data, None, 1)
        return self

    def predict(self, X: Any) -> Array:
        """The label of each image, one of ``classes_``."""
        network, images = self._for_prediction(X)
        labels: Array = self.classes_[network.predict(images)]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, ``(n, classes)``, in the order of ``classes_``. Rows sum to 1."""
        network, images = self._for_prediction(X)
        return network.predict_proba(images)

    def __sklearn_tags__(self) -> Any:
        """Tells scikit-learn that images may be arrays of three dimensions."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _check_parameters(self) -> None:
        """Raises ValueError if a number is out of its range. The network and the arrays' order are checked later."""
        for name in ("batch_size", "max_iter", "n_iter_no_change"):
            whole_number(name, getattr(self, name), 1)
        real_number("learning_rate_init", self.learning_rate_init, POSITIVE)
        real_number("tol", self.tol, NOT_NEGATIVE)
        real_number("validation_fraction", self.validation_fraction, FRACTION)

    @contextmanager
    def _restore_after_error(self) -> Iterator[None]:
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _arrange(self, X: Any, y: Any = NO_LABELS, *, reset: bool) -> tuple[Array, Array]:
        """The images in the package's order, and the labels ``(n,)``."""
        array = X if hasattr(X, "shape") else np.asarray(X)
        has_images = len(array.shape) > 2 and not hasattr(array, "toarray")  # Sparse arrays are refused below.
        rows = np.asarray(array).reshape(len(array), -1 if array.size else 0) if has_images else X
        labels = np.empty(0)
        if y is NO_LABELS:
            rows = validation.validate_data(self, rows, reset=reset)
        else:
            rows, labels = validation.validate_data(self, rows, y, reset=reset)
            multiclass.check_classification_targets(labels)
        problem = pixels.too_large(rows)
        if problem is not None:
            raise ValueError(f"X: images {problem}")
        if reset:
            self._image_shape = array.shape[1:] if has_images else self._shape_of_rows(rows.shape[1])
        shape = array.shape[1:] if has_images else self._image_shape
        return arrange(rows.reshape(-1, *shape), name="X", channels=self.channels), labels

    def _shape_of_rows(self, count: int) -> tuple[int, ...]:
        """The shape of images that come as rows of ``count`` pixels."""
        if self.image_shape is not None:
            shape = shape_of_one(self.image_shape)
            if math.prod(shape) != count:
                raise ValueError(f"X: rows of {count} pixels are not images of image_shape={shape}")
            return shape
        side = math.isqrt(count)
        if side * side == count:
            return side, side
        if count <= LONGEST_LINE:
            return 1, count
        raise ValueError(
            f"X: rows of {count} pixels are not square images: image_shape=(h, w), (c, h, w) or (h, w, c) says "
            "what they are"
        )

    def _weights(self, images: Array, labels: Array, sample_weight: Any) -> Array | None:
        """``sample_weight`` times the weight of each label, or None if neither is given."""
        weights: Array | None = None
        if sample_weight is not None:
            weights = validation._check_sample_weight(sample_weight, images, dtype=np.float64)
            if not weights.any():
                raise ValueError("Sample weights must contain at least one non-zero number.")
        if self.class_weight is not None:
            of_class = class_weights.compute_sample_weight(self.class_weight, labels)
            weights = of_class if weights is None else weights * of_class
        return weights

    def _begin(self, data: Dataset, classes: Array) -> None:
        """Take the scale of the images from the data, and drop the state of earlier training."""
        if len(classes) < 2:
            raise ValueError(f"LeNetClassifier needs at least two classes, got 1 class: {quoted(classes.tolist())}")
        self.classes_ = classes
        settings = settings_for(data)
        if settings["pixel_max"] is None:
            # Around smaller images: of features that are standardised one by one, the smallest is not a background.
            settings["pixel_min"] = float(np.mean(settings["mean"]))
        self.settings_ = {
            **settings,
            "classes": len(classes),
            "activation": self.activation,
            "pooling": self.pooling,
        }
        self._seed = _seed(self.random_state)
        self._state: TrainingState | None = None
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None

    def _split(self, data: Dataset) -> tuple[Dataset, Dataset]:
        """The images to train on, and those to validate on: of each class the same part."""
        train, held_out = model_selection.train_test_split(
            np.arange(len(data)),
            test_size=self.validation_fraction,
            random_state=self._seed % MOST_SEEDS,
            stratify=data.targets,
        )
        validation_data = data.subset(np.sort(held_out))
        # Without weights: those of the images held out may all be 0.
        return data.subset(np.sort(train)), dataclasses.replace(validation_data, weights=None)

    def _network(self) -> _Network:
        network = lenet5(**self.settings_, kernel=self.kernel)
        arguments = {each.name: getattr(network, each.name) for each in dataclasses.fields(network) if each.init}
        return _Network(**arguments)

    def _train(self, train: Dataset, held_out: Dataset | None, epochs: int) -> None:
        """Train for at most ``epochs`` epochs, and store the result."""
        network = self._network()
        workers = _workers(self.n_jobs)
        optimizer = Adam(float(self.learning_rate_init))
        engine = "serial" if workers == 1 else "processes"
        reports = list[EpochReport]()
        with Coordinator(
            network, optimizer, engine=engine, n_workers=workers, batch_size=self.batch_size, seed=self._seed
        ) as coordinator:
            if self._state is not None:
                coordinator._state = self._state
            best = coordinator._state
            with closing(coordinator.iterate(train, epochs, held_out)) as steps:  # type: ignore[type-var]
                for report in steps:
                    if isinstance(report, EpochReport):
                        reports.append(report)
                        self._print(report, len(self.loss_curve_) + len(reports))
                        values = [_badness(each) for each in reports]
                        if held_out is None or values[-1] < min(values[:-1], default=math.inf):
                            best = coordinator._state
                        if _epochs_without_progress(values, self.tol) >= self.n_iter_no_change:
                            break
        self._state = dataclasses.replace(best, data=None)
        self.parameters_ = best.parameters
        self.loss_curve_ = [*self.loss_curve_, *(report.train_loss for report in reports)]
        self.loss_ = self.loss_curve_[-1]
        self.n_iter_ = len(self.loss_curve_)
        scores = [report.validation_accuracy for report in reports if report.validation_accuracy is not None]
        self.validation_scores_ = [*(self.validation_scores_ or []), *scores] or None
        self.best_validation_score_ = max(self.validation_scores_) if self.validation_scores_ else None

    def _print(self, report: EpochReport, epoch: int) -> None:
        if self.verbose:
            accuracy = report.validation_accuracy
            score = "" if accuracy is None else f", validation score {accuracy:.4f}"
            sys.stdout.write(f"epoch {epoch}: loss {report.train_loss:.4f}{score}, {report.seconds:.2f} s\n")

    def _for_prediction(self, X: Any) -> tuple[TrainedModel, Array]:
        """The trained network and the images in its order. Raises NotFittedError before ``fit``."""
        validation.check_is_fitted(self)
        images, _ = self._arrange(X, reset=False)
        self._check_unit(images)
        return TrainedModel(self._network(), self.parameters_, {}), images

    def _check_unit(self, images: Array) -> None:
        """Raises ValueError if the images are clearly in another unit than those of ``fit``, as 0 to 255 and 0 to 1."""
        white = self.settings_["pixel_max"]
        low, high = pixels.extremes(images)
        dim = white is not None and images.dtype.kind == "f" and len(images) >= pixels.MANY and 0 < high <= 1
        if white is not None and (high > pixels.DARK * white or (dim and white >= pixels.DARK)):
            raise ValueError(
                f"X holds {images.dtype} pixels from {low:g} to {high:g}, but the classifier was trained on pixels "
                f"from {self.settings_['pixel_min']:g} to {white:g}: scale both in the same way"
            )


def _dataset(images: Array, targets: Array, weights: Array | None) -> Dataset:
    return Dataset(images, targets.astype(np.int64).reshape(-1), "X", weights)


def _badness(report: EpochReport) -> float:
    """The number that training makes smaller: the loss, or the validation accuracy with a minus sign."""
    return report.train_loss if report.validation_accuracy is None else -report.validation_accuracy


def _epochs_without_progress(values: Sequence[float], tol: float) -> int:
    """How many of the last values are not below the smallest one before by ``tol``, in a row."""
    best = math.inf
    epochs = 0
    for value in values:
        epochs = 0 if value <= best - tol else epochs + 1
        best = min(best, value)
    return epochs


def _seed(random_state: Any) -> int:
    """The seed: ``random_state`` itself if it is a whole number, else a number that it draws."""
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return whole_number("random_state", random_state, 0, 2**32 - 1)
    return int(utils.check_random_state(random_state).randint(MOST_SEEDS))


def _workers(n_jobs: int | None) -> int:
    """How many processes compute: joblib's own number for None, which is 1 inside a parallel job."""
    return int(joblib.effective_n_jobs(None)) if n_jobs is None else count_workers(n_jobs).count
