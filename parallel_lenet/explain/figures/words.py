"""The words of the figures for classes, layers and shapes."""

from parallel_lenet.class_names import truncate, width
from parallel_lenet.explain.drawing import Text
from parallel_lenet.explain.lesson import Lesson
from parallel_lenet.explain.trace import Step
from parallel_lenet.network.layers import AvgPool2d, Conv2d, Dense, Flatten, MaxPool2d, ReLU, Tanh

NAME_COLUMNS = 16  # The most that a class's name takes in a figure. A wide character takes two.
NUMBER_COLUMNS = 6  # Characters for which a figure always has room.
COLUMN = 6.8  # Width of a character, in units of a drawing.


def room_for_names(lesson: Lesson) -> float:
    """How much wider than for numbers a figure's column of classes has to be for the names of its classes."""
    widest = max(width(class_text(lesson, k, 0, 0).drawn_text) for k in lesson.classes)
    return COLUMN * max(0, widest - NUMBER_COLUMNS)


def class_text(lesson: Lesson, k: int, x: float, y: float) -> Text:
    """A class in a figure: its name, shortened, or its number. The right class is bold."""
    name = lesson.name_of(k)
    named = lesson.class_names is not None
    style = "value" if k != lesson.label else "name" if named else "strong"
    return Text(x, y, truncate(name, NAME_COLUMNS), style, title=name if named else "")


def size(shape: tuple[int, ...]) -> str:
    """``28×28×6``, rows by columns by channels, as the tutorial writes shapes, or ``120`` for a vector."""
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
