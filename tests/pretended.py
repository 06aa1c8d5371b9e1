"""A device that only pretends: its tensors lie on the CPU, and are refused beside tensors that say so.

PyTorch lets no operation mix a GPU's tensors with the CPU's, but for single numbers. Here the same rule holds without a
GPU: what runs on this device runs on a GPU without a mixture of devices, and its results are the CPU's but for rounding
(some operations are put together from others where a device is not the CPU).
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_available(self) -> bool:
        return True


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)


class Pretended(torch.Tensor):
    """A tensor that says it is on DEVICE. inner: where it really is."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Pretended":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=DEVICE,
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(operation, args, kwargs or {})


class Rehearsal(TorchDispatchMode):
    """A context in which DEVICE works. operations: how many ran on it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = _call(operation, args, kwargs or {})
        self.operations += any(isinstance(part, Pretended) for part in tree_leaves(made))
        return made


def _call(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    if there and operation not in COPIES:
        for tensor in tensors:
            if not isinstance(tensor, Pretended) and tensor.dim():
                raise MixedDevicesError(f"{operation}: {list(tensor.shape)} on the CPU beside {list(there[0].shape)}")
    args, inside = tree_map_only(Pretended, lambda tensor: tensor.inner, (args, kwargs))
    to = bool(there)
    if inside.get("device") is not None:
        to = torch.device(inside["device"]).type == NAME
        inside = inside | {"device": torch.device("cpu")}
    made = operation(*args, **inside)
    if operation is ATEN.copy_.default:
        return tensors[0]
    if not to:
        return made
    known = {id(tensor.inner): tensor for tensor in there}  # an operation in place gives its own tensor
    return tree_map_only(torch.Tensor, lambda one: known[id(one)] if id(one) in known else Pretended(one), made)
