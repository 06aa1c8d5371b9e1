"""This machine: cores and memory, GPU driver, versions."""
