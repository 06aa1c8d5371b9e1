"""Filter pruning of the UNet before export: PIC-PQ's ranking, removal, fine-tuning."""

from dpd_export.pruning.prune import Pruned, check_size, prune

__all__ = ["Pruned", "check_size", "prune"]
