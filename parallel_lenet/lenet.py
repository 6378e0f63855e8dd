"""LeNet-5, the tutorial's network."""

from parallel_lenet.layers import AvgPool2d, Conv2d, Dense, Flatten, Images, Layer, MaxPool2d, ReLU, Tanh
from parallel_lenet.model import Sequential

ACTIVATIONS: dict[str, type[Layer]] = {"tanh": Tanh, "relu": ReLU}
POOLINGS: dict[str, type[Layer]] = {"avg": AvgPool2d, "max": MaxPool2d}


def lenet5(
    *,
    channels: int = 1,
    classes: int = 10,
    image_size: tuple[int, int] = (28, 28),
    activation: str = "tanh",
    pooling: str = "avg",
    mean: float = 0.1307,
    std: float = 0.3081,
    kernel: str = "auto",
    dtype: str = "float32",
) -> Sequential:
    """32x32 -> conv 6@5x5 -> pool 2 -> conv 16@5x5 -> pool 2 -> dense 120 -> 84 -> classes.

    An activation follows each layer with parameters but the last; as it stands, for MNIST, there are 61,706 of those.
    Smaller images are centred on 32x32; larger ones keep their size, and the first dense layer grows. ``mean`` and
    ``std`` normalise pixels scaled to 0 to 1. ``activation`` is tanh (1.7159 * tanh(x)) or relu, ``pooling`` avg or
    max. ValueError where one of them has another value.
    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition" (1998), II.B,
    with the tutorial's simplifications: pooling has no parameters, the second convolution sees all six maps, and the
    output is a dense layer under softmax.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    if pooling not in POOLINGS:
        raise ValueError(f"unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}")
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes must be a whole number of at least 2, not {classes!r}")
    squash, pool = ACTIVATIONS[activation](), POOLINGS[pooling]()
    return Sequential(
        Images(image_size=image_size, channels=channels, mean=mean, std=std),
        (
            *(Conv2d(6, 5), squash, pool),
            *(Conv2d(16, 5), squash, pool, Flatten()),
            *(Dense(120), squash, Dense(84), squash, Dense(classes)),
        ),
        kernel=kernel,
        dtype=dtype,
    )
