"""The unit of work: what a block is, how one is computed, and what goes on beside the networks' calls."""

from dpd_runtime.blocks.block import BLOCK, Block, Image
from dpd_runtime.blocks.compute import BlockComputer
from dpd_runtime.blocks.networks import JUDGE, Networks, load_networks
from dpd_runtime.blocks.overlap import ahead, writing_behind

__all__ = ["BLOCK", "JUDGE", "Block", "BlockComputer", "Image", "Networks", "ahead", "load_networks", "writing_behind"]
