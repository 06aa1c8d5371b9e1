"""Distilled sets on disk: formats, shards, state and metadata."""
