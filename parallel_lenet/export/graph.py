"""A `Sequential` as an ONNX graph: a node per layer, with the layer's name, after those that prepare the pixels."""

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

OPSET = 17  # With IR 8: what ONNX Runtime 1.12 of 2022 and all later ones read.
IR = 8
LARGEST = 2**31 - 2**20  # Bytes: protobuf messages end at 2 GiB.


def onnx_model(model: Sequential, weights: Mapping[str, Array], version: str, metadata: Mapping[str, Any]) -> bytes:
    """The ONNX file; see `export.to_onnx`."""
    onnx = optional.load("export", "onnx", "an ONNX file")
    if sum(array.size for array in weights.values()) * 4 > LARGEST:
        raise ValueError("the network is too large for one ONNX file, which ends at 2 GiB: export to safetensors")
    graph = _Graph(onnx.helper, onnx.numpy_helper)
    graph.images(model.images)
    for layer, name in zip(model.layers, model.layer_names, strict=True):
        convert = _CONVERT.get(type(layer))
        if convert is None:
            raise ValueError(f"{name} is a {type(layer).__name__}, which can't be exported to ONNX")
        convert(graph, layer, name, weights)
    graph.nodes[-1].output[0] = "scores"  # Of the last layer.
    outputs = ["scores"]
    if model.loss == CROSS_ENTROPY:
        graph.node("Softmax", "softmax", ["scores"], output="probabilities", axis=1)
        outputs.append("probabilities")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
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
    """The nodes so far; ``last`` is the output of the last one."""

    def __init__(self, helper: Any, numpy_helper: Any) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.last = "images"
        self._helper = helper
        self._from_array = numpy_helper.from_array

    def constant(self, name: str, value: Any, dtype: type = np.float32) -> str:
        """Store an array, and return its name."""
        self.initializers.append(self._from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """Store a number without axes, and return its name."""
        self.initializers.append(self._from_array(np.array(value, np.float32), name))
        return name

    def node(self, kind: str, name: str, inputs: list[str], output: str | None = None, **settings: Any) -> None:
        """Add a node, by default after the last one; its output has its name."""
        self.last = output or f"{name}.output"
        self.nodes.append(self._helper.make_node(kind, inputs, [self.last], name, **settings))

    def images(self, images: Images) -> None:
        """Centre the images on their field, and normalise the pixels, as `Images.prepare` does."""
        if images.pixel_min:
            self.node("Sub", "images.black", ["images", self.constant("images.pixel_min", images.pixel_min)])
        _, rows, columns = images.shape
        height, width = images.height_and_width
        if (rows, columns) != (height, width):
            top, left = (rows - height) // 2, (columns - width) // 2
            around = [0, 0, top, left, 0, 0, rows - height - top, columns - width - left]
            self.node("Pad", "images.field", [self.last, self.constant("images.field.pads", around, np.int64)])
        scale, shift = (
            np.reshape(each, (-1, 1, 1)) for each in images.scale_and_shift
        )  # One, or one for each channel.
        self.node("Mul", "images.scale", [self.last, self.constant("images.factor", scale)])
        self.node("Add", "images.normalise", [self.last, self.constant("images.shift", shift)])


def _conv(graph: _Graph, layer: layers.Conv2d, name: str, weights: Mapping[str, Array]) -> None:
    arrays = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
    k, stride, padding = layer.kernel_size, layer.stride, layer.padding
    graph.node(
        "Conv", name, [graph.last, *arrays], kernel_shape=[k, k], strides=[stride, stride], pads=[padding] * 4
    )  # fmt: skip


def _dense(graph: _Graph, layer: layers.Dense, name: str, weights: Mapping[str, Array]) -> None:
    arrays = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias")]
    graph.node("Gemm", name, [graph.last, *arrays], transB=1)


def _tanh(graph: _Graph, layer: layers.Tanh, name: str, weights: Mapping[str, Array]) -> None:
    graph.node("Tanh", name, [graph.last])
    graph.node("Mul", f"{name}.scale", [graph.last, graph.constant(f"{name}.amplitude", layer.amplitude)])


def _dropout(graph: _Graph, layer: layers.Dropout, name: str, weights: Mapping[str, Array]) -> None:
    """Dropout changes nothing outside of training, in ONNX too: no node is needed."""
    graph.node("Dropout", name, [graph.last, graph.scalar(f"{name}.rate", layer.rate)])


def _pool(kind: str) -> Callable[..., None]:
    def convert(graph: _Graph, layer: Any, name: str, weights: Mapping[str, Array]) -> None:
        size, stride = layer.size, layer.stride
        graph.node(kind, name, [graph.last], kernel_shape=[size, size], strides=[stride, stride])

    return convert


def _plain(kind: str, **settings: Any) -> Callable[..., None]:
    def convert(graph: _Graph, layer: Any, name: str, weights: Mapping[str, Array]) -> None:
        graph.node(kind, name, [graph.last], **settings)

    return convert


_CONVERT: dict[type, Callable[..., None]] = {
    layers.Conv2d: _conv,
    layers.Dense: _dense,
    layers.Dropout: _dropout,
    layers.Tanh: _tanh,
    layers.ReLU: _plain("Relu"),
    layers.Dropout: _plain("Identity"),
    layers.Flatten: _plain("Flatten", axis=1),
    layers.AvgPool2d: _pool("AveragePool"),
    layers.MaxPool2d: _pool("MaxPool"),
}
