"""Federated tuning: sites that may not pool their images tune one denoiser. Updates of its weights travel, with
losses and numbers of images.

settings.py: who takes part, and what the server decides for all. packet.py: an update as arrays. shared.py: the weights
that all know. site.py: a site's rounds. coordinator.py: the server's. flower.py: both over the network.
"""
