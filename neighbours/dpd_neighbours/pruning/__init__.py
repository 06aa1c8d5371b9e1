"""Filter pruning of the UNet before export: PIC-PQ's ranking, removal, fine-tuning."""
