"""LeNet-5, the tutorial's network."""

from parallel_lenet.augmentation import Augment
from parallel_lenet.checks import quoted, whole_number
from parallel_lenet.network.images import MEAN, STD, Images
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, Layer, MaxPool2d, ReLU, Tanh
from parallel_lenet.network.sequential import Sequential

ACTIVATIONS: dict[str, type[Layer]] = {"tanh": Tanh, "relu": ReLU}
POOLINGS: dict[str, type[Layer]] = {"avg": AvgPool2d, "max": MaxPool2d}


def lenet5(
    *,
    channels: int = 1,
    classes: int = 10,
    image_size: tuple[int, int] | int = (28, 28),
    activation: str = "tanh",
    pooling: str = "avg",
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
    pixel_min: float = 0,
    pixel_max: float | None = 255,
    kernel: str = "auto",
    dtype: str = "float32",
    augment: Augment | None = None,
    label_smoothing: float = 0.0,
) -> Sequential:
    """LeNet-5: 32x32 -> conv 6@5x5 -> pool 2 -> conv 16@5x5 -> pool 2 -> dense 120 -> dense 84 -> dense classes.

    An activation follows each layer with parameters but the last. The default, for MNIST, has 61,706 parameters.
    Smaller images are centred on 32x32. Larger ones keep their size, and the first dense layer grows.
    ``image_size`` is ``(height, width)``, or one number for both. Colour images, ``(n, 3, h, w)`` or ``(n, h, w, 3)``,
    need ``channels=3``.

    ``pixel_min`` and ``pixel_max`` say which numbers stand for black and white in the images: 0 and 255 as stored,
    ``pixel_max=1`` for floats from 0 to 1 and for booleans, 16 for scikit-learn's digits, 65535 for 16 bits, and
    ``pixel_max=None`` for standardised images, which are used as they are. Images that can't be in this unit are
    refused. ``mean`` and ``std`` normalise the pixels scaled to 0 to 1, by default MNIST's 0.1307 and 0.3081. With
    ``pixel_max=None`` the pixels themselves, by default 0 and 1. Each is a number, or one number for each channel.

    ``activation`` is tanh (1.7159 * tanh(x)) or relu, ``pooling`` avg or max. ``augment`` distorts the images in
    training: see `Augment`. ``label_smoothing`` smooths the targets in training: see `Sequential`. Raises ValueError if
    a value is not allowed.
    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998), II.B,
    with the tutorial's simplifications: pooling has no parameters, the second convolution sees all six maps, and the
    output is a dense layer under softmax.

    >>> import numpy as np
    >>> network = lenet5(kernel="im2col")
    >>> network.layout.size
    61706
    >>> parameters = network.initial_parameters(np.random.default_rng(0))
    >>> network.predict(parameters, np.zeros((2, 28, 28), np.uint8)).shape
    (2,)
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {quoted(activation)}: choose one of {', '.join(ACTIVATIONS)}")
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {quoted(pooling)}: choose one of {', '.join(POOLINGS)}")
    classes = whole_number("classes", classes, 2)
    if mean is None:
        mean = MEAN if pixel_max is not None else 0.0
    if std is None:
        std = STD if pixel_max is not None else 1.0
    squash = ACTIVATIONS[activation]()
    pool = POOLINGS[pooling]()
    return Sequential(
        Images(image_size, channels, mean=mean, std=std, pixel_min=pixel_min, pixel_max=pixel_max),
        (
            *(Conv2d(6, 5), squash, pool),
            *(Conv2d(16, 5), squash, pool, Flatten()),
            *(Dense(120), squash, Dense(84), squash, Dense(classes)),
        ),
        kernel=kernel,
        dtype=dtype,
        augment=augment,
        label_smoothing=label_smoothing,
    )
