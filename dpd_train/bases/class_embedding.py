"""UNets with a class embedding beside the time embedding (Text2Earth: the map's zoom level, fed 0 for "unknown")."""

import torch
from diffusers import UNet2DConditionModel


@torch.no_grad()
def fold_class_embedding(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """`unet` without its class embedding, and with the outputs that it had for class 0.

    The network adds the class vector to the output of the time embedding's last layer, so that it belongs to that
    layer's bias. The result takes a sample, a timestep and a prompt, as every plain pipeline gives them.
    """
    if unet.class_embedding is None:
        return unet
    bias = unet.time_embedding.linear_2.bias
    sample = torch.zeros(1, unet.config.in_channels, 1, 1, dtype=bias.dtype, device=bias.device)
    zero = torch.zeros(1, dtype=torch.int64, device=bias.device)
    bias += unet.get_class_embed(sample=sample, class_labels=zero)[0]
    unet.class_embedding = None
    unet.register_to_config(class_embed_type=None, num_class_embeds=None)
    return unet
