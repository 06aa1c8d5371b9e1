"""Artefact scan: search a bundle or a set for traces of single real images."""
