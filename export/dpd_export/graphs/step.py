"""Build `step/model.onnx`: guidance and solver update between two UNet calls (dpd_runtime/sampling/step_table.py)."""

from dataclasses import fields

from onnxscript import ir

from dpd_export.graphs.parts import BATCH
from dpd_export.graphs.trace import OPSET
from dpd_runtime.sampling.step_table import COEFFICIENTS, OUTPUTS, TENSORS, Coefficients

FLOAT = ir.TensorType(ir.DataType.FLOAT)
IR_VERSION = 10


class _Tape:
    """Collects nodes and constants in the order in which they are created."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def __call__(self, kind: str, *inputs: ir.Value, name: str | None = None, **attributes: object) -> ir.Value:
        node = ir.node(kind, list(inputs), attributes, name=f"{kind}_{len(self.nodes)}")
        node.outputs[0].name = name or f"value_{len(self.nodes)}"
        self.nodes.append(node)
        return node.outputs[0]

    def integers(self, name: str, *numbers: int) -> ir.Value:
        tensor = ir.tensor(list(numbers), ir.DataType.INT64, name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.constants.append(value)
        return value


def step_graph(latent_shape: tuple[int, int, int], factor: int = 1) -> ir.Model:
    """The step graph for latents of one shape.

    Args:
        latent_shape: (C, h, w).
        factor: side of the blocks whose means are the prototypes (kind `pooled`); 1 for other kinds.
    """
    channels, height, width = latent_shape
    small = (height // factor, width // factor)
    shapes = dict.fromkeys(TENSORS, (height, width)) | {"prototypes": small}
    inputs = {
        name: ir.Value(name=name, type=FLOAT, shape=ir.Shape([BATCH, channels, *sides]))
        for name, sides in shapes.items()
    }
    names = [field.name for field in fields(Coefficients)]
    row = ir.Value(name=COEFFICIENTS, type=FLOAT, shape=ir.Shape([len(names)]))
    op = _Tape()
    split = ir.node("Split", [row], {"axis": 0, "num_outputs": len(names)}, num_outputs=len(names), name="Split")
    op.nodes.append(split)
    number = dict(zip(names, split.outputs, strict=True))
    for name, value in number.items():
        value.name = f"coefficient_{name}"
    z, conditional, unconditional = (inputs[name] for name in TENSORS[:3])
    steering = op("Mul", number["guidance_scale"], op("Sub", conditional, unconditional))
    output = op("Add", unconditional, steering)
    predicted = op("Add", op("Mul", number["from_latents"], z), op("Mul", number["from_output"], output))
    pull = op("Sub", inputs["prototypes"], _block_means(op, predicted, factor))
    pull = op("Mul", number["prototype_scale"], pull)
    original = op("Add", predicted, _spread(op, pull, factor, latent_shape), name=OUTPUTS[1])
    total = op("Add", op("Mul", number["keep"], z), op("Mul", number["add"], original))
    for weight, name in (("add_previous", "previous"), ("add_older", "older")):
        total = op("Add", total, op("Mul", number[weight], inputs[name]))
    following = op("Add", total, op("Mul", number["noise"], inputs["noise"]), name=OUTPUTS[0])
    for value in (following, original):
        value.type, value.shape = FLOAT, ir.Shape([BATCH, channels, height, width])
    graph = ir.Graph(
        [*inputs.values(), row],
        [following, original],
        nodes=op.nodes,
        initializers=op.constants,
        opset_imports={"": OPSET},
        name="step",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="dpd")


def _block_means(op: _Tape, value: ir.Value, factor: int) -> ir.Value:
    if factor == 1:
        return value
    return op("AveragePool", value, kernel_shape=[factor, factor], strides=[factor, factor])


def _spread(op: _Tape, value: ir.Value, factor: int, latent_shape: tuple[int, int, int]) -> ir.Value:
    """Nearest-neighbour upsampling by Reshape and Expand, which give the same result in every runtime."""
    if factor == 1:
        return value
    channels, height, width = latent_shape
    rows, columns = height // factor, width // factor
    apart = op("Reshape", value, op.integers("apart", -1, channels, rows, 1, columns, 1))
    wide = op("Expand", apart, op.integers("wide", 1, channels, rows, factor, columns, factor))
    return op("Reshape", wide, op.integers("together", -1, channels, height, width))
