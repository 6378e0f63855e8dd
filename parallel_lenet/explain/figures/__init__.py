"""The figures of the lesson, in the page's order."""

from parallel_lenet.explain.drawing import Figure
from parallel_lenet.explain.figures import backward, convolution, forward, gradients, overview, parallel, training
from parallel_lenet.explain.lesson import Lesson


def figures(lesson: Lesson) -> list[Figure]:
    """Those that this network has something to show for."""
    made = (
        overview.architecture(lesson),
        overview.image(lesson),
        convolution.convolution(lesson),
        overview.output_shape(lesson),
        convolution.channels(lesson),
        forward.activation(lesson),
        forward.pooling(lesson),
        forward.flatten(lesson),
        forward.dense(lesson),
        forward.softmax(lesson),
        backward.error(lesson),
        backward.dense_backward(lesson),
        backward.activation_backward(lesson),
        backward.pooling_backward(lesson),
        gradients.scatter(lesson),
        gradients.gather(lesson),
        gradients.equal(lesson),
        gradients.kernel_gradient(lesson),
        gradients.mismatch(lesson),
        training.difference(lesson),
        training.adam(lesson),
        parallel.batch(lesson),
        parallel.tree(lesson),
        parallel.unequal(lesson),
        parallel.orders(lesson),
        parallel.death(lesson),
    )
    return [figure for figure in made if figure is not None]
