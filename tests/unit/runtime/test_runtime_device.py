"""`--device` of commands that need no PyTorch: what it asks of the provider."""

import pytest

from dpd_cli.options import runtime_device
from dpd_runtime.errors import InputError


@pytest.mark.parametrize(
    ("device", "provider", "chosen"),
    [
        ("auto", "auto", ("auto", None)),
        ("auto", "tensorrt", ("tensorrt", None)),
        ("cpu", "auto", ("cpu", None)),
        ("cpu", "cpu", ("cpu", None)),
        ("cpu", "openvino", ("openvino", None)),
        ("cuda", "auto", ("auto", 0)),
        ("cuda:3", "tensorrt-rtx", ("tensorrt-rtx", 3)),
        ("2", "openvino", ("openvino", 2)),
        ("0", "cpu", ("cpu", 0)),  # which the choice of the provider refuses
    ],
)
def test_a_device_is_a_provider_and_a_number(device: str, provider: str, chosen: tuple[str, int | None]) -> None:
    assert runtime_device(device, provider) == chosen


@pytest.mark.parametrize(
    ("device", "provider", "said"),
    [
        ("tpu", "auto", "--device 'tpu' is unknown: use auto, cpu, cuda or cuda:N"),
        ("", "auto", "--device '' is unknown"),
        ("cuda:", "auto", "'cuda:' is unknown"),
        ("cuda:-1", "auto", "'cuda:-1' is unknown"),
        ("-1", "auto", "'-1' is unknown"),
        ("cuda:99999", "auto", "is unknown"),
        ("mps", "auto", "--device mps: no provider of the runtime uses it"),
        ("cpu", "cuda", "--device cpu: provider cuda needs a GPU"),
        ("cuda", "openvino", "--device cuda: openvino runs no CUDA GPU"),
        ("cuda:1", "cpu", "--device cuda:1: --provider cpu uses no GPU"),
    ],
)
def test_a_device_that_cannot_be_is_told(device: str, provider: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        runtime_device(device, provider)
    assert said in str(caught.value)
