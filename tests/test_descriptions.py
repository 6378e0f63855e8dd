"""Descriptions of networks: complete, compared by name, and turned into a network without trusting them."""

import copy
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parallel_lenet import AvgPool2d, Conv2d, Dense, Flatten, Images, MaxPool2d, ReLU, Sequential, Tanh, kernels, lenet5
from parallel_lenet.descriptions import build, differences

NETWORKS = {
    "lenet5": lambda: lenet5(kernel="im2col"),
    "colour": lambda: lenet5(channels=3, image_size=(40, 33), mean=0.5, std=0.25, kernel="im2col"),
    "others": lambda: Sequential(
        Images((9, 8), 2, 10, 0.0, 1.0, -1.0, None),
        (Conv2d(3, 2, 2, 1, True), ReLU(), MaxPool2d(2, 1), Tanh(1.0), AvgPool2d(2), Flatten(), Dense(4)),
        "im2col",
        "float64",
    ),
}


def test_a_mean_for_each_channel_is_part_of_the_description() -> None:
    network = lenet5(channels=3, image_size=8, mean=(0.1, 0.2, 0.3), std=(1, 1, 1), kernel="im2col")
    again = build(json.loads(json.dumps(network.description)), "im2col")
    assert (again.images.mean, again.images.std) == ((0.1, 0.2, 0.3), 1.0)
    images = np.full((1, 3, 8, 8), 51, np.uint8)
    field = np.empty((3, 32, 32, 1), np.float32)
    again.images.prepare(kernels.load("im2col"), again.images.pixels(images, field.dtype), field)
    np.testing.assert_allclose(field[:, 16, 16, 0], [0.1, 0, -0.1], atol=1e-6)
    np.testing.assert_allclose(field[:, 0, 0, 0], [-0.1, -0.2, -0.3], atol=1e-6)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_made_again_from_its_description(make: Callable[[], Sequential]) -> None:
    network = make()
    described = json.loads(json.dumps(network.description))
    assert build(described, "im2col") == network
    assert differences(described, network.description, "the model") == []


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"activation": "relu"}, "layer 2 is Tanh(amplitude=1.7159) in the checkpoint, ReLU() in the model"),
        (
            {"pooling": "max"},
            "layer 3 is AvgPool2d(size=2, stride=2) in the checkpoint, MaxPool2d(size=2, stride=2) in",
        ),
        ({"mean": 0.5}, "mean of the images is 0.1307 in the checkpoint, 0.5 in the model"),
        ({"std": 0.25}, "std of the images is 0.3081 in the checkpoint, 0.25 in the model"),
        ({"pixel_max": 1}, "pixel_max of the images is 255.0 in the checkpoint, 1.0 in the model"),
        ({"dtype": "float64"}, "dtype is 'float32' in the checkpoint, 'float64' in the model"),
        ({"classes": 9}, "layer 12 is Dense(units=10) in the checkpoint, Dense(units=9) in the model"),
    ],
)
def test_what_differs_is_named(other: dict[str, Any], sentence: str) -> None:
    saved = lenet5(kernel="im2col").description
    ours = lenet5(**{"kernel": "im2col", **other}).description
    assert differences(saved, ours, "the model")[0].startswith(sentence)


def test_flipped_filters_and_layers_that_are_missing_are_named_too() -> None:
    def network(*layers: Any) -> Any:
        return Sequential(Images(), (*layers, Flatten(), Dense(2)), "im2col").description

    assert differences(network(Conv2d(1, 5)), network(Conv2d(1, 5, flip=True)), "here") == [
        "layer 1 is Conv2d(filters=1, kernel_size=5, stride=1, padding=0, flip=False) in the checkpoint, "
        "Conv2d(filters=1, kernel_size=5, stride=1, padding=0, flip=True) in here"
    ]
    assert (
        differences(network(), network(ReLU()), "here")[-1]
        == "layer 3 is missing in the checkpoint, Dense(units=2) in here"
    )
    assert differences(None, network(), "here") == ["the checkpoint does not describe its model"]
    assert differences({"a": 1, "b": [2]}, {"a": 1, "b": [3]}, "here") == ["b is [2] in the checkpoint, [3] in here"]


def change(path: list[Any], value: Any) -> Any:
    described = copy.deepcopy(lenet5(kernel="im2col").description)
    place: Any = described
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return described


HOSTILE = [
    None,
    [],
    {},
    "Sequential",
    change(["kernel"], "x"),
    change(["dtype"], "object"),
    change(["dtype"], ["float32"]),
    change(["layers"], {}),
    change(["layers"], [{"class": "Flatten"}] * 1001),
    change(["layers"], []),
    change(["layers", 0], None),
    change(["layers", 0], {"class": ["Conv2d"]}),
    change(["layers", 0], {"class": "os.system", "command": "true"}),
    change(["layers", 0], {"class": "Images"}),
    change(["layers", 0, "filters"], True),
    change(["layers", 0, "filters"], 10**4000),
    change(["layers", 0, "filters"], 2**31),
    change(["layers", 0, "kernel_size"], 10**1000),
    change(["layers", 0, "filters"], -1),
    change(["layers", 0, "filters"], 6.0),
    change(["layers", 0, "filters"], [6]),
    change(["layers", 0, "padding"], 10**9),
    change(["layers", 0, "more"], 1),
    change(["layers", 0, "flip"], 1),
    change(["layers", 1, "amplitude"], "nan"),
    change(["layers", 1, "amplitude"], 10**400),
    change(["layers", 2, "size"], {}),
    change(["images", "class"], "Dense"),
    change(["images", "image_size"], [28, 28, 28]),
    change(["images", "image_size"], [[28], 28]),
    change(["images", "image_size"], [10**9, 10**9]),
    change(["images", "size"], 10**6),
    change(["images", "mean"], "0"),
    change(["images", "std"], 0),
    change(["images", "pixel_max"], -1),
]


@pytest.mark.parametrize("described", HOSTILE, ids=lambda described: str(described)[-60:])
def test_a_hostile_description_is_refused_in_a_sentence_and_takes_no_memory(described: Any) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^[^\n]{5,400}$"):
            build(described, "im2col")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
