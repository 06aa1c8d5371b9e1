"""GPUs of the driver beside those that ONNX Runtime discovers, on machines that are invented here."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpd_runtime import engines
from dpd_runtime.engines import _rtx_device
from dpd_runtime.errors import ProviderError
from dpd_runtime.machine import Driver, Gpu, discovered, why_not_discovered

PLACES = ("0000:65:00.0", "0000:1a:00.0", "0000:B3:00.0")
GPUS = tuple(Gpu(f"GPU {place}", 86, 2**33, place) for place in PLACES)


@dataclass
class Hardware:
    metadata: dict[str, str]


@dataclass
class Device:
    """onnxruntime's OrtEpDevice, as far as it is used."""

    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> Hardware:
        return Hardware(self.metadata)


def device(place: str) -> Device:
    return Device({"pci_bus_id": place, "card_idx": "0"})


@given(st.permutations(PLACES), st.integers(0, 2))
def test_a_gpu_is_found_by_its_address_in_any_order(places: list[str], number: int) -> None:
    found = discovered([device(place.upper()) for place in places], GPUS[number], number)
    assert found is not None
    assert found.metadata["pci_bus_id"].lower() == PLACES[number].lower()


def test_a_gpu_that_was_not_discovered_is_not_another_one() -> None:
    assert discovered([device(PLACES[1])], GPUS[0], 0) is None


def test_without_addresses_the_number_decides() -> None:
    devices = [Device(), Device()]
    assert discovered(devices, GPUS[1], 1) is devices[1]
    assert discovered([device(PLACES[0])], Gpu("old driver", 86, 1), 0) is not None
    assert discovered(devices, GPUS[2], 2) is None


@pytest.mark.parametrize(
    ("there", "capability", "words"),
    [
        ("dev/dxg", 89, "under WSL it discovers none (microsoft/onnxruntime#27286)"),
        ("etc/nv_tegra_release", 87, "on Jetson it discovers none (microsoft/onnxruntime#32541)"),
        ("sys/class/drm", 86, "an incomplete /sys/class/drm (microsoft/onnxruntime#27806)"),
        ("dev/dxg", 75, "has compute capability 7.5, and 8.0 is the least"),
    ],
)
def test_the_known_cause_is_named(there: str, capability: int, words: str, tmp_path: Path) -> None:
    (tmp_path / there).mkdir(parents=True)
    assert words in why_not_discovered(Gpu("A GPU", capability, 2**33), tmp_path)


def test_the_plugin_computes_on_the_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [device(place) for place in reversed(PLACES[1:])]
    monkeypatch.setattr(engines, "rtx_devices", lambda: devices)
    monkeypatch.setattr(engines, "nvidia_driver", lambda: Driver("580.95", 13000, GPUS, None))
    assert [_rtx_device(number) for number in (1, 2)] == [devices[1], devices[0]]
    with pytest.raises(ProviderError, match=r"ONNX Runtime does not discover GPU 0000:65:00.0, which the driver lists"):
        _rtx_device(0)
    with pytest.raises(ProviderError, match=r"no GPU 3 \(the driver finds 3, from 0\)"):
        _rtx_device(3)
