"""Options that went with the last release, and what does their work now. Each stays here for one release."""

GONE: dict[str, dict[str, str]] = {}
"""Command → option → what to write instead."""
