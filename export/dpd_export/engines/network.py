"""Parse ONNX bytes to a strongly typed TensorRT network: the builder cannot change the graph's types."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpd_runtime.bundle.verified import weights_of
from dpd_runtime.errors import BundleError, InputError, MissingExtraError

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


def dtype_name(tensor: Any) -> str:
    """numpy's name of a tensor's type."""
    name = str(tensor.dtype.name)
    return DTYPES.get(name, name.lower())


class Network:
    """One parsed graph. Keeps parser, graph and weights alive, because the network points to them."""

    def __init__(self, trt: Any, logger: Any, files: Mapping[str, bytes], graph: str) -> None:
        """Parse `graph`.

        Args:
            trt: the flavour's module.
            files: content of a verified bundle; nothing is read from disk again.

        Raises:
            InputError: the parser refuses the graph.
            BundleError: weights outside the graph are not where the graph says.
        """
        self.builder = trt.Builder(logger)
        typed = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        self.definition = self.builder.create_network(1 << int(typed))
        self._parser = trt.OnnxParser(self.definition, logger)
        self._weights = outside_weights(files, graph)
        good = bool(self._parser.load_model_proto(files[graph]))
        for name, weight in self._weights.items():
            good = good and bool(self._parser.load_initializer(name, weight.ctypes.data, weight.nbytes))
        if not (good and self._parser.parse_model_proto()):
            reason = self._parser.get_error(0).desc() if self._parser.num_errors else "no reason given"
            raise InputError(f"{graph}: TensorRT's parser refuses it ({reason[:200]}); export the bundle again")
        if not self.definition.get_flag(typed):
            raise InputError(
                f"{graph}: {trt.__name__} {trt.__version__} does not say that its networks are strongly typed; install "
                "a version with which engines were tried (docs: Engines)"
            )

    @property
    def inputs(self) -> list[Any]:
        return [self.definition.get_input(i) for i in range(self.definition.num_inputs)]

    @property
    def outputs(self) -> list[Any]:
        return [self.definition.get_output(i) for i in range(self.definition.num_outputs)]

    def arithmetic(self) -> dict[str, int]:
        """Number of convolutions and matrix products in each type."""
        layers = [self.definition.get_layer(i) for i in range(self.definition.num_layers)]
        return dict(Counter(dtype_name(x.get_output(0)) for x in layers if x.type.name in ARITHMETIC))


def sources_of(files: Mapping[str, bytes], graph: str) -> tuple[str, ...]:
    """The graph, and the file beside it that holds its weights, if there is one."""
    return (graph, weights_of(graph)) if weights_of(graph) in files else (graph,)


def outside_weights(files: Mapping[str, bytes], graph: str) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Bytes of each weight that lies in the file beside the graph, as views without copies.

    Raises:
        BundleError: a weight does not lie within that file.
    """
    beside = weights_of(graph)
    if beside not in files:
        return {}
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export") from error

    weights = {}
    content = np.frombuffer(files[beside], np.uint8)
    for tensor in onnx.load_from_string(files[graph]).graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        place = {pair.key: pair.value for pair in tensor.external_data}
        offset = int(place.get("offset", 0))
        end = offset + int(place["length"]) if "length" in place else len(content)
        if not 0 <= offset <= end <= len(content):
            raise BundleError(f"{graph}: weight {tensor.name} does not lie within {beside}; export the bundle again")
        weights[tensor.name] = content[offset:end]
    return weights
