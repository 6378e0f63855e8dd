"""The classifier for scikit-learn: its own checks, the coordinator's numbers, processes, what is kept of a training."""

import pickle
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from kits.programs import Run

from parallel_lenet import Adam, Coordinator, Dataset, lenet5_for

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from parallel_lenet.sklearn import LeNetClassifier, _epochs_without_progress, _workers

EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "batches are cut by images: one twice is not one of weight 2",
}

DIGITS = load_digits()
IMAGES, LABELS = DIGITS.images[:200], DIGITS.target[:200]
NAMES = np.array(["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
SMALL = {"max_iter": 2, "random_state": 0, "batch_size": 50, "kernel": "im2col"}


def fitted(X: Any = IMAGES, y: Any = LABELS, sample_weight: Any = None, **settings: Any) -> LeNetClassifier:
    return LeNetClassifier(**SMALL | settings).fit(X, y, sample_weight)


def bits(classifier: LeNetClassifier) -> bytes:
    return classifier.parameters_.tobytes()


@cache
def trained() -> LeNetClassifier:
    """One for all tests, which train no further."""
    return fitted()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [LeNetClassifier(max_iter=8, batch_size=32, random_state=0)], expected_failed_checks=lambda _: EXPECTED
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# The numbers.


@pytest.mark.slow
def test_they_are_the_coordinators_for_any_number_of_jobs() -> None:
    data = Dataset(IMAGES, LABELS)
    network = lenet5_for(data, kernel="im2col")
    with Coordinator(network, Adam(0.002), engine="serial", batch_size=50, seed=0) as coordinator:
        history = coordinator.fit(data, epochs=2)
        assert bits(trained()) == coordinator.parameters.tobytes()
        assert trained().loss_curve_ == [report.train_loss for report in history]
        assert np.array_equal(trained().predict(DIGITS.images), coordinator.predict(DIGITS.images))
        assert np.array_equal(trained().predict_proba(IMAGES), coordinator.predict_proba(IMAGES))
    assert bits(fitted(n_jobs=2)) == bits(trained())


def test_images_in_any_shape_and_unit_and_labels_of_any_kind() -> None:
    rows = IMAGES.reshape(-1, 64)
    for same in (IMAGES[:, None], IMAGES[..., None], rows, IMAGES.astype(np.uint8), IMAGES.astype(">i2")):
        assert bits(fitted(same)) == bits(trained())
    assert bits(fitted(rows, image_shape=(8, 8))) == bits(trained())
    named = fitted(y=NAMES[LABELS])
    assert named.classes_.tolist() == sorted(NAMES)
    assert set(named.predict(IMAGES)) <= set(NAMES)
    assert trained().n_features_in_ == 64
    for scale in (255 / 16, 1 / 16):  # Other units give the same network up to rounding.
        scaled = fitted(IMAGES * scale)
        assert scaled.settings_["pixel_max"] == round(16 * scale)
        np.testing.assert_allclose(scaled.predict_proba(IMAGES * scale), trained().predict_proba(IMAGES), atol=1e-3)
    assert np.array_equal(trained().predict(rows), trained().predict(IMAGES))


def test_colours_first_last_and_in_rows() -> None:
    first = np.random.default_rng(0).integers(0, 256, (60, 3, 10, 12), dtype=np.uint8)
    y = np.arange(60) % 3
    last = np.moveaxis(first, 1, 3)
    classifiers = [
        fitted(first, y),
        fitted(last, y),
        fitted(first.reshape(60, -1), y, image_shape=(3, 10, 12)),
        fitted(last.reshape(60, -1), y, image_shape=(10, 12, 3)),
    ]
    for one, other in pairwise(classifiers):
        assert bits(one) == bits(other)
    assert len(classifiers[0].settings_["mean"]) == 3
    assert np.array_equal(classifiers[3].predict(last.reshape(60, -1)), classifiers[0].predict(last))


def test_training_continues_with_warm_start_and_partial_fit_as_if_it_had_been_one() -> None:
    whole = fitted(max_iter=3)
    warm = LeNetClassifier(**SMALL | {"warm_start": True, "max_iter": 1})
    part = LeNetClassifier(**SMALL)
    for epochs in (1, 2):
        warm.set_params(max_iter=epochs).fit(IMAGES, LABELS)
    for _ in range(3):
        part.partial_fit(IMAGES, LABELS, classes=np.arange(10))
        part = pickle.loads(pickle.dumps(part))
    assert bits(warm) == bits(part) == bits(whole)
    assert warm.loss_curve_ == part.loss_curve_ == whole.loss_curve_
    assert warm.n_iter_ == part.n_iter_ == 3
    assert bits(warm.set_params(warm_start=False, max_iter=2).fit(IMAGES, LABELS)) == bits(trained())


def test_weights_of_classes_and_of_images_are_multiplied() -> None:
    ones = np.ones(len(LABELS))
    assert bits(fitted(sample_weight=ones)) == bits(trained())
    of_class = fitted(class_weight={3: 5.0})
    assert bits(of_class) == bits(fitted(sample_weight=np.where(LABELS == 3, 5.0, 1.0))) != bits(trained())
    assert bits(fitted(class_weight={3: 2.5}, sample_weight=np.where(LABELS == 3, 2.0, 1.0))) == bits(of_class)
    few = np.r_[np.flatnonzero(LABELS == 1)[:3], np.flatnonzero(LABELS == 0)]
    balanced = fitted(IMAGES[few], LABELS[few], class_weight="balanced")
    counts = np.bincount(LABELS[few])
    assert bits(balanced) == bits(fitted(IMAGES[few], LABELS[few], len(few) / (2 * counts[LABELS[few]])))


def test_early_stopping_keeps_the_best_epoch_of_images_held_out() -> None:
    X, y = DIGITS.images[:400], DIGITS.target[:400]
    stopped = fitted(X, y, early_stopping=True, max_iter=30, n_iter_no_change=2, validation_fraction=0.2)
    scores = stopped.validation_scores_
    assert stopped.n_iter_ == len(scores) == len(stopped.loss_curve_) < 30
    assert max(scores[-2:]) < max(scores[:-2]) + stopped.tol
    _, held_out = train_test_split(np.arange(400), test_size=0.2, random_state=0, stratify=y)
    assert stopped.score(X[held_out], y[held_out]) == stopped.best_validation_score_ == max(scores)
    assert trained().validation_scores_ is None
    assert trained().best_validation_score_ is None
    patient = fitted(max_iter=30, tol=10.0, n_iter_no_change=3)
    assert patient.n_iter_ == 4  # No epoch after the first is better by 10.
    assert _epochs_without_progress([1.0, 0.5, 0.45, 0.6], 0.1) == 2


def test_random_states() -> None:
    one, other = (fitted(random_state=np.random.RandomState(5)) for _ in range(2))
    assert bits(one) == bits(other) != bits(trained())
    assert bits(fitted(random_state=np.int64(0))) == bits(trained())
    generator = np.random.RandomState(5)
    assert bits(fitted(random_state=generator)) != bits(fitted(random_state=generator))
    assert bits(fitted(random_state=None)) != bits(fitted(random_state=None))


# In scikit-learn's tools.


def test_a_fitted_classifier_is_stored_small_and_whole(tmp_path: Path) -> None:
    joblib.dump(trained(), tmp_path / "c.joblib")
    for again in (pickle.loads(pickle.dumps(trained())), joblib.load(tmp_path / "c.joblib")):
        assert np.array_equal(again.predict_proba(IMAGES), trained().predict_proba(IMAGES))
    assert len(pickle.dumps(trained())) < 4 * 3 * trained().parameters_.size + 10_000  # Adam has two numbers for each.
    fresh = clone(trained())
    assert fresh.get_params() == trained().get_params()
    with pytest.raises(NotFittedError):
        fresh.predict(IMAGES)


def test_pipelines_and_cross_validation() -> None:
    rows = IMAGES.reshape(-1, 64)
    pipe = make_pipeline(StandardScaler(), LeNetClassifier(**SMALL | {"max_iter": 6, "learning_rate_init": 0.005}))
    assert pipe.fit(rows, NAMES[LABELS]).score(rows, NAMES[LABELS]) > 0.8
    flip = make_pipeline(FunctionTransformer(lambda images: images[:, ::-1]), LeNetClassifier(**SMALL))
    assert cross_val_score(flip, IMAGES, LABELS, cv=2).shape == (2,)


def test_only_verbose_prints(capsys: pytest.CaptureFixture[str]) -> None:
    fitted()
    assert capsys.readouterr() == ("", "")
    fitted(verbose=True, early_stopping=True)
    out, err = capsys.readouterr()
    assert (out.count("\n"), out.count("validation score"), err) == (2, 2, "")


def test_n_jobs_are_counted_as_joblib_counts() -> None:
    assert _workers(None) == 1
    assert _workers(3) == 3
    assert 1 <= _workers(-1) <= joblib.cpu_count()
    with joblib.parallel_config(n_jobs=2):
        assert _workers(None) == 2
    inside = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(_workers)(None) for _ in range(2))
    assert inside == [1, 1]


SEARCH = """
import glob, os, threading, time
from pathlib import Path
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from parallel_lenet.sklearn import LeNetClassifier

def below(pid):
    children = []
    for each in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            children += map(int, Path(each).read_text().split())
        except OSError:
            continue
    return children

def watch():
    while not done.is_set():
        workers = [each for each in below(os.getpid()) if b"resource_tracker" not in cmdline(each)]
        seen.append((len(workers), sum(len(below(each)) for each in workers)))
        time.sleep(0.1)

def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

if __name__ == "__main__":
    done, seen = threading.Event(), []
    watcher = threading.Thread(target=watch)
    watcher.start()
    digits = load_digits()
    grid = {"learning_rate_init": [0.001, 0.004]}
    search = GridSearchCV(LeNetClassifier(max_iter=2, kernel="im2col"), grid, cv=2, n_jobs=2)
    search.fit(digits.images[:100], digits.target[:100])
    done.set()
    watcher.join()
    print(*np.max(seen, axis=0), search.best_params_["learning_rate_init"])
"""

INTERRUPT = """
import os, signal, threading, time
from pathlib import Path
from sklearn.datasets import load_digits
from parallel_lenet.sklearn import LeNetClassifier

def children():
    return Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()

def interrupt():
    while not children():
        time.sleep(0.01)
    time.sleep(0.2)
    found.extend(children())
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    found = []
    threading.Thread(target=interrupt).start()
    digits = load_digits()
    classifier = LeNetClassifier(n_jobs=2, max_iter=100000, n_iter_no_change=100000, kernel="im2col")
    try:
        classifier.fit(digits.images, digits.target)
    except KeyboardInterrupt:
        left = [pid for pid in found if Path(f"/proc/{pid}").exists()]
        print(len(found) > 0, children(), left, vars(classifier).keys() - classifier.get_params().keys())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_a_parallel_search_has_no_processes_within_processes(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "search.py"
    program.write_text(SEARCH)
    workers, within, best = run(str(program)).stdout.split()
    assert int(workers) == 2
    assert int(within) == 0
    assert float(best) in (0.001, 0.004)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_an_interrupt_leaves_no_processes_and_the_classifier_as_it_was(run: Run, tmp_path: Path) -> None:
    program = tmp_path / "interrupt.py"
    program.write_text(INTERRUPT)
    assert run(str(program)).stdout == "True [] [] set()\n"


# What is refused, in one sentence.


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fitted(max_iter=0), "max_iter must be a whole number of at least 1, got 0"),
        (lambda: fitted(learning_rate_init=-1), "learning_rate_init must be a finite number above 0, got -1"),
        (lambda: fitted(n_jobs=0), "the number of workers must not be 0"),
        (lambda: fitted(random_state=-1), "random_state must be a whole number of at least 0, got -1"),
        (
            lambda: fitted(IMAGES.reshape(200, -1), image_shape=(7, 8)),
            "rows of 64 pixels are not images of image_shape",
        ),
        (
            lambda: fitted(np.zeros((20, 3072)), np.arange(20) % 2),
            "X: rows of 3072 pixels are not square images: image_",
        ),
        (lambda: fitted(np.zeros((9, 3, 9, 3)), np.arange(9) % 2), "channels='first' or channels='last' decides"),
        (lambda: fitted(y=np.zeros(200)), "needs at least two classes, got 1 class: \\[0.0\\]"),
        (lambda: fitted(sample_weight=np.zeros(200)), "at least one non-zero number"),
        (lambda: fitted(sample_weight=-np.ones(200)), "weights must be finite numbers of at least 0, got -1"),
        (lambda: trained().predict(np.zeros((2, 9, 9))), "X has 81 features, but LeNetClassifier is expecting 64"),
        (lambda: trained().predict(np.zeros((2, 4, 16))), "this network takes images of shape"),
        (lambda: trained().predict(255 * IMAGES), "trained on pixels from 0 to 16: scale both in the same way"),
        (lambda: trained().predict(IMAGES / 16), "trained on pixels from 0 to 16: scale both in the same way"),
        (lambda: fitted(IMAGES * 1e299), r"X: images hold the pixel 1.6e\+300; all must be from -1e\+38 to 1e\+38"),
        (lambda: trained().predict(IMAGES * -1e299), r"X: images hold the pixel -1.6e\+300; all must be from -1e\+38"),
        (lambda: LeNetClassifier().partial_fit(IMAGES, LABELS), "the first call of partial_fit needs classes"),
        (
            lambda: LeNetClassifier(**SMALL).partial_fit(IMAGES, LABELS, classes=[0, 1]),
            "label 2 is not one of the classes, \\[0, 1\\]",
        ),
        (lambda: LeNetClassifier(early_stopping=True).partial_fit(IMAGES, LABELS, [0, 1]), "early_stopping=False"),
        (lambda: clone(trained()).set_params(pooling="sum").fit(IMAGES, LABELS), "unknown pooling 'sum'"),
    ],
)
def test_a_mistake_is_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value).strip()


def test_an_error_leaves_the_classifier_as_it_was() -> None:
    classifier = fitted()
    with pytest.raises(ValueError, match="classes"):
        classifier.fit(IMAGES[:10], np.zeros(10))
    assert bits(classifier) == bits(trained())
    assert np.array_equal(classifier.predict(IMAGES), trained().predict(IMAGES))


def test_sparse_arrays_of_three_axes_are_refused_as_others_are() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="dense data is required"):
        LeNetClassifier().fit(sparse.coo_array(np.ones((4, 8, 8))), [0, 1, 0, 1])
