"""Federated tuning: sites that may not share their images tune one denoiser together, by updates of its weights.

settings.py: who takes part, and what the server decides. packet.py: an update as arrays. shared.py: the weights that
all have. site.py: a site's rounds. coordinator.py: the server's rounds. flower.py: both over the network. stage.py: the
tuning within a run, and the run of the server, whose command is in command.py.
"""
