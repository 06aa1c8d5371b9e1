"""The `dpd` command."""
