"""The stages of `dpd train`, one file each."""
