"""Fewer filters in a UNet that is exported: PIC-PQ's ranking, removal, tuning."""

from dpd_export.pruning.prune import Pruned, Pruning, check_size, parse_pruning, prune

__all__ = ["Pruned", "Pruning", "check_size", "parse_pruning", "prune"]
