"""The words of the figures for layers and shapes."""

from parallel_lenet.explain.lesson import Lesson
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh


def size(shape: tuple[int, ...]) -> str:
    """``28×28×6``, rows by columns by channels, as the tutorial writes shapes; ``120`` for a vector."""
    return "×".join(map(str, (*shape[1:], shape[0]))) if len(shape) == 3 else "×".join(map(str, shape))


def kind(step: Step) -> str:
    """What a layer does, in two or three words."""
    layer = step.layer
    if isinstance(layer, Conv2d):
        return f"convolution {layer.kernel_size}×{layer.kernel_size}"
    if isinstance(layer, AvgPool2d | MaxPool2d):
        return f"{'average' if isinstance(layer, AvgPool2d) else 'max'} pooling {layer.size}×{layer.size}"
    return {Dense: "dense", Flatten: "flatten", Tanh: "tanh", ReLU: "ReLU"}[type(layer)]


def name_of_input(lesson: Lesson, step: Step) -> str:
    """The name of the array that a layer reads."""
    before = lesson.trace.steps.index(step) - 1
    return "input" if before < 0 else lesson.trace.steps[before].name
