"""SwiMDiff (arXiv 2401.05093): an encoder trained without labels, by momentum contrast and a diffusion loss.

Differences from the paper: the encoder is a small residual network for crops of about 64 pixels, keys are normalised by
the statistics of mixed groups of a batch, and queue, weights of the losses and denoiser are ours, as the paper's are
not public.
"""
