"""The distilled set on disk: formats, shards, state, metadata."""
