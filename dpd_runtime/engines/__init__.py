"""Engines: named arrays in, named arrays out."""
