"""Low-rank adapters (Hu et al. 2022) on the attention of a frozen UNet: trained, saved, merged.

The training loop copies, averages and stores the networks that it is given. `Adapted` gives it only the adapters of a
large base, so that the frozen weights exist once.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from torch import nn
from torch.func import functional_call

from dpd_runtime.errors import MissingExtraError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # all projections of the attention


class Adapted(nn.Module):
    """A network that shows only those of its parameters that require a gradient.

    A copy has its own parameters and shares the network; it runs the network with its own parameters.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # in a list it is no child module, and is not counted, copied or saved
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.trained = nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})
        self._in_place = True

    @property
    def network(self) -> nn.Module:
        return self._network[0]

    @property
    def config(self) -> Any:
        return self.network.config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._in_place:
            return self.network(*args, **kwargs)
        return functional_call(self.network, self._by_name(), args, kwargs)

    def write_back(self) -> None:
        """Copy this copy's parameters into the network."""
        with torch.no_grad():
            for name, parameter in self._by_name().items():
                self.network.get_parameter(name).copy_(parameter)

    def _by_name(self) -> dict[str, torch.Tensor]:
        return {name.replace("/", "."): parameter for name, parameter in self.trained.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = self.__class__.__new__(self.__class__)
        nn.Module.__init__(twin)
        twin._network, twin._in_place = self._network, False
        twin.trained = copy.deepcopy(self.trained, memo)
        return twin

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Apply to the parameters and to the network, for example when they move to another device."""
        self.network._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn)  # type: ignore[no-untyped-call]
        return self


def add_adapters(unet: UNet2DConditionModel, rank: int, seed: int) -> UNet2DConditionModel:
    """`unet` frozen, with adapters of rank r = α beside its attention layers; they change nothing yet.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingExtraError("peft", "train") from error
    unet.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS))
        unet.add_adapter(config)
    return unet


def save_adapters(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the adapters so that `StableDiffusionPipeline.load_lora_weights(folder)` adds them to the same base."""
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def merge_adapters(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The plain UNet with the same outputs: W + B·A in place of W."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet.requires_grad_(True)
