"""Bundles: their files, manifest, classes, signature and encryption, and the checks before a bundle is used."""
