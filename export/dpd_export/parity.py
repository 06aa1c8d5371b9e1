"""How far an exported graph is from PyTorch, measured at every export (DESIGN §10)."""

import numpy as np
import numpy.typing as npt
import torch

from dpd_export.graphs import Graph
from dpd_runtime.engines import Provider
from dpd_runtime.engines.onnxruntime import OnnxRuntimeEngine
from dpd_runtime.errors import ParityError

LIMITS = {"fp32": 1e-3, "fp16": 2e-2}
PSNR_LIMITS = {"fp32": 40.0, "fp16": 30.0}
BATCHES = (1, 3)
Pixels = npt.NDArray[np.uint8]


@torch.no_grad()
def largest_difference(graph: Graph, model: bytes, precision: str, seed: int = 1) -> float:
    """Largest |ONNX − PyTorch| over random batches of several sizes; for fp16 relative to the output's scale."""
    engine = OnnxRuntimeEngine(model, Provider("cpu", "parity"))
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch in BATCHES:
        inputs = []
        for example in graph.examples:
            if example.ndim == 0:
                inputs.append(torch.randint(1000, (), generator=generator))
                continue
            rows = torch.randint(len(example), (batch,), generator=generator)
            chosen = example[rows]
            if chosen.is_floating_point():
                chosen = 0.9 * chosen + 0.1 * torch.randn(chosen.shape, generator=generator)
            inputs.append(chosen)
        expected = graph.module(*inputs).numpy()
        found = engine.run(**{name: value.numpy() for name, value in zip(graph.inputs, inputs, strict=True)})
        if not np.isfinite(found).all():
            return float("inf")  # max() below would forget a NaN
        scale = float(np.abs(expected).max()) or 1.0 if precision == "fp16" else 1.0
        worst = max(worst, float(np.abs(found - expected).max()) / scale)
    return worst


def check(path: str, difference: float, precision: str) -> None:
    """Raises:
    ParityError: beyond the limit of this precision.
    """
    if not difference <= LIMITS[precision]:
        raise ParityError(
            f"{path} differs from PyTorch by {difference:.2e}, more than {LIMITS[precision]:.0e} for {precision}; "
            "nothing was written: try --precision fp32"
        )


def psnr(found: Pixels, expected: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images; 99 for equal ones."""
    mse = float(np.square(found.astype(np.float64) - expected.astype(np.float64)).mean())
    return 99.0 if mse == 0 else 10 * float(np.log10(255.0**2 / mse))
