"""A bundle: its files, manifest, class table, hashes, signature, and the checks before anything of it is used."""
