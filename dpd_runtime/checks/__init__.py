"""What a site can check: a bundle, this machine, and how fast they are together."""
