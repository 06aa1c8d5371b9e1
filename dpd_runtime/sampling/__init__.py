"""Sampling on plain arrays: noise, schedule, solvers, guidance."""
