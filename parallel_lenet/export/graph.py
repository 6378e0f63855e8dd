"""A `Sequential` as an ONNX graph: nodes that prepare the pixels, then one per layer, with the layer's name."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parallel_lenet import optional
from parallel_lenet.network import layers
from parallel_lenet.network.images import Images
from parallel_lenet.network.losses import CROSS_ENTROPY
from parallel_lenet.network.sequential import Sequential

Array = NDArray[Any]

OPSET = 17  # With IR 8. ONNX Runtime 1.12 of 2022 and all later versions read it.
IR = 8
LARGEST = 2**31 - 2**20  # Bytes: protobuf messages end at 2 GiB.


def onnx_model(model: Sequential, weights: Mapping[str, Array], version: str, metadata: Mapping[str, Any]) -> bytes:
    """The content of the ONNX file that `export.to_onnx` describes."""
    onnx = optional.load("export", "onnx", "an ONNX file")
    if sum(array.size for array in weights.values()) * 4 > LARGEST:
        raise ValueError("the network is too large for one ONNX file, which ends at 2 GiB: export to safetensors")
    graph = _Graph(onnx.helper, onnx.numpy_helper)
    graph.images(model.images)
    for layer, name in zip(model.layers, model.layer_names, strict=True):
        convert = _CONVERTERS.get(type(layer))
        if convert is None:
            raise ValueError(f"{name} is a {type(layer).__name__}, which can't be exported to ONNX")
        convert(graph, layer, name, weights)
    graph.nodes[-1].output[0] = "scores"  # Of the last layer.
    outputs = ["scores"]
    if model.loss == CROSS_ENTROPY:
        graph.node("Softmax", "softmax", ["scores"], output="probabilities", axis=1)
        outputs.append("probabilities")
    helper = onnx.helper
    float32 = onnx.TensorProto.FLOAT
    height, width = model.images.height_and_width
    result = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "parallel_lenet",
            [helper.make_tensor_value_info("images", float32, ["batch", model.images.channels, height, width])],
            [helper.make_tensor_value_info(name, float32, ["batch", model.classes]) for name in outputs],
            graph.initializers,
        ),
        ir_version=IR,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="parallel_lenet",
        producer_version=version,
        doc_string=f"The input is images: pixels as they are stored, {model.images.unit}.",
    )
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for name, value in metadata.items()
    }
    helper.set_model_props(result, texts)
    onnx.checker.check_model(result, full_check=True)
    result = onnx.shape_inference.infer_shapes(result)  # For viewers.
    content: bytes = result.SerializeToString(deterministic=True)
    return content


class _Graph:
    """The nodes so far. ``last_output`` is the output of the last one."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.last_output = "images"
        self._helper = helper
        self._from_array = numpy_helper.from_array

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Store an array, and return its name."""
        self.initializers.append(self._from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def node(self, kind: str, name: str, inputs: list[str], output: str | None = None, **settings: Any) -> None:
        """Add a node. Without ``output``, its output is named after it."""
        self.last_output = output or f"{name}.output"
        self.nodes.append(self._helper.make_node(kind, inputs, [self.last_output], name, **settings))

    def images(self, images: Images) -> None:
        """Centre the images on their field, and normalise the pixels, as `Images.prepare` does."""
        if images.pixel_min:
            self.node("Sub", "images.black", ["images", self.constant("images.pixel_min", images.pixel_min)])
        _, rows, columns = images.shape
        height, width = images.height_and_width
        if (rows, columns) != (height, width):
            top = (rows - height) // 2
            left = (columns - width) // 2
            around = [0, 0, top, left, 0, 0, rows - height - top, columns - width - left]
            self.node("Pad", "images.field", [self.last_output, self.constant("images.field.pads", around, np.int64)])
        # One number, or one for each channel.
        scale, shift = (np.reshape(each, (-1, 1, 1)) for each in images.scale_and_shift)
        self.node("Mul", "images.scale", [self.last_output, self.constant("images.factor", scale)])
        self.node("Add", "images.normalise", [self.last_output, self.constant("images.shift", shift)])


def _conv(graph: _Graph, layer: layers.Conv2d, name: str, weights: Mapping[str, Array]) -> None:
    arrays = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
    graph.node(
        "Conv",
        name,
        [graph.last_output, *arrays],
        kernel_shape=[layer.kernel_size] * 2,
        strides=[layer.stride] * 2,
        pads=[layer.padding] * 4,
    )


def _dense(graph: _Graph, layer: layers.Dense, name: str, weights: Mapping[str, Array]) -> None:
    arrays = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
    graph.node("Gemm", name, [graph.last_output, *arrays], transB=1)


def _tanh(graph: _Graph, layer: layers.Tanh, name: str, weights: Mapping[str, Array]) -> None:
    graph.node("Tanh", name, [graph.last_output])
    graph.node("Mul", f"{name}.scale", [graph.last_output, graph.constant(f"{name}.amplitude", layer.amplitude)])


def _pool(kind: str) -> Callable[..., None]:
    def convert(graph: _Graph, layer: Any, name: str, weights: Mapping[str, Array]) -> None:
        graph.node(kind, name, [graph.last_output], kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2)

    return convert


def _node(kind: str, **settings: Any) -> Callable[..., None]:
    def convert(graph: _Graph, layer: Any, name: str, weights: Mapping[str, Array]) -> None:
        graph.node(kind, name, [graph.last_output], **settings)

    return convert


_CONVERTERS: dict[type, Callable[..., None]] = {
    layers.Conv2d: _conv,
    layers.Dense: _dense,
    layers.Tanh: _tanh,
    layers.ReLU: _node("Relu"),
    layers.Dropout: _node("Identity"),  # It changes nothing outside of training.
    layers.Flatten: _node("Flatten", axis=1),
    layers.AvgPool2d: _pool("AveragePool"),
    layers.MaxPool2d: _pool("MaxPool"),
}
