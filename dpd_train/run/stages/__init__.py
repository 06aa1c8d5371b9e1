"""The stages of `dpd train`, one file each. A stage makes something and returns it."""
