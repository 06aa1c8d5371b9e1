"""Engines, which run compiled graphs, and the records of ahead-of-time engines."""
