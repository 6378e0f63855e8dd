"""The figures of the lesson, in the page's order."""

from collections.abc import Callable

from parallel_lenet.explain.drawing import Figure
from parallel_lenet.explain.figures import backward, convolution, forward, gradients, overview, parallel, training
from parallel_lenet.explain.lesson import Lesson
from parallel_lenet.explain.trace import Step


def figures(lesson: Lesson) -> list[Figure]:
    """The figures that this network has something to show for."""
    roles = lesson.roles

    def figure_of(draw: Callable[[Lesson, Step], Figure | None], step: Step | None) -> Figure | None:
        return None if step is None else draw(lesson, step)

    candidates = (
        overview.architecture(lesson),
        overview.image(lesson),
        figure_of(convolution.convolution, roles.conv),
        overview.output_shape(lesson),
        figure_of(convolution.channels, roles.deep),
        figure_of(forward.activation, roles.activation),
        figure_of(forward.pooling, roles.pool),
        figure_of(forward.flatten, roles.flatten),
        figure_of(forward.dense, roles.dense),
        forward.softmax(lesson),
        backward.error(lesson),
        figure_of(backward.dense_backward, roles.dense),
        figure_of(backward.activation_backward, roles.activation),
        figure_of(backward.pooling_backward, roles.last_pool),
        figure_of(gradients.scatter, roles.deep),
        figure_of(gradients.gather, roles.deep),
        figure_of(gradients.equal, roles.deep),
        figure_of(gradients.kernel_gradient, roles.deep),
        figure_of(gradients.mismatch, roles.deep),
        training.difference(lesson),
        training.adam(lesson),
        parallel.batch(lesson),
        parallel.tree(lesson),
        parallel.unequal(lesson),
        parallel.orders(lesson),
        parallel.death(lesson),
    )
    return [figure for figure in candidates if figure is not None]
