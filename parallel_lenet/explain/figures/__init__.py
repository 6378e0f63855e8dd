"""The figures of the lesson, in the page's order."""

from collections.abc import Callable

from parallel_lenet.explain.drawing import Figure
from parallel_lenet.explain.figures import backward, convolution, forward, gradients, overview, parallel, training
from parallel_lenet.explain.lesson import Lesson
from parallel_lenet.explain.trace import Step


def figures(lesson: Lesson) -> list[Figure]:
    """The figures that this network has something to show for."""
    roles = lesson.roles

    def drawn(draw: Callable[[Lesson, Step], Figure | None], step: Step | None) -> Figure | None:
        return None if step is None else draw(lesson, step)

    made = (
        overview.architecture(lesson),
        overview.image(lesson),
        drawn(convolution.convolution, roles.conv),
        overview.output_shape(lesson),
        drawn(convolution.channels, roles.deep),
        drawn(forward.activation, roles.activation),
        drawn(forward.pooling, roles.pool),
        drawn(forward.flatten, roles.flatten),
        drawn(forward.dense, roles.dense),
        forward.softmax(lesson),
        backward.error(lesson),
        drawn(backward.dense_backward, roles.dense),
        drawn(backward.activation_backward, roles.activation),
        drawn(backward.pooling_backward, roles.last_pool),
        drawn(gradients.scatter, roles.deep),
        drawn(gradients.gather, roles.deep),
        drawn(gradients.equal, roles.deep),
        drawn(gradients.kernel_gradient, roles.deep),
        drawn(gradients.mismatch, roles.deep),
        training.difference(lesson),
        training.adam(lesson),
        parallel.batch(lesson),
        parallel.tree(lesson),
        parallel.unequal(lesson),
        parallel.orders(lesson),
        parallel.death(lesson),
    )
    return [figure for figure in made if figure is not None]
