"""No telemetry of any library (docs/reference/security.md). `dpd_runtime/__init__.py` imports this before all else.

ONNX Runtime 1.29 and later start an uploader when their library is loaded, on Linux and macOS: it writes an id and
queued events to the user's cache folder and looks up a host of Microsoft's. It reads a variable of the environment at
that moment, and nothing stops it later: with `disable_telemetry_events` it goes on. On Windows the system's own tracing
is used, which no variable reaches.
"""

import logging
import os
import sys
from functools import cache
from typing import Any

from dpd_runtime.errors import MissingExtraError

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime up to 1.32
    "ORT_TELEMETRY_DISABLED": "1",  # its later sources
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
}
"""Variables that the libraries read when they are imported. Processes that are started from here inherit them."""
_OPENVINO = "openvino_telemetry"
_log = logging.getLogger(__name__)


def _silence() -> bool:
    """Set the variables. Returns whether ONNX Runtime had been loaded without its own."""
    late = sys.modules.get("onnxruntime") is not None and os.environ.get("ORT_DISABLE_TELEMETRY") != "1"
    os.environ.update(OFF)
    return late


LATE: bool = _silence()
"""Whether somebody else's import of onnxruntime came before ours, with its telemetry on."""


def import_onnxruntime() -> Any:
    """Import onnxruntime. Nothing else in dpd does.

    Raises:
        MissingExtraError: it is not installed.
    """
    if LATE:
        _warn_once()
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu") from error
    return onnxruntime


@cache
def _warn_once() -> None:
    _log.warning(
        "onnxruntime was imported before dpd_runtime, with its telemetry on, which cannot be stopped any more: "
        "import dpd_runtime first, or set ORT_DISABLE_TELEMETRY=1"
    )


@cache
def import_openvino() -> Any:
    """Import openvino. Nothing else in dpd does. The import would tell Google Analytics, and write to ~/intel.

    An entry of None makes the import of its telemetry fail, and openvino then takes its own stub.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == _OPENVINO}
    sys.modules |= {_OPENVINO: None, **dict.fromkeys(kept)}  # type: ignore[dict-item]
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    finally:
        del sys.modules[_OPENVINO]
        sys.modules |= kept
    return openvino


def describe_telemetry() -> str:
    """Whether ONNX Runtime's telemetry is off in this process, in words."""
    if LATE:
        return "on: onnxruntime was imported before dpd_runtime; set ORT_DISABLE_TELEMETRY=1"
    if sys.platform == "win32":
        return "ONNX Runtime's is the system's tracing on Windows, which dpd does not control; of others off"
    return "off (ONNX Runtime, OpenVINO, Hugging Face, Ray, Flower)"
