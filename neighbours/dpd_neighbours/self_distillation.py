"""What one classifier of a network learns from another one of the same network (Hinton et al. 2015, 1503.02531)."""

import torch
from torch.nn import functional as F

TEMPERATURE = 3.0


def softened(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities [B, num_classes] at TEMPERATURE, through which no gradient comes back."""
    return F.softmax(logits.detach().float() / TEMPERATURE, dim=1)


def disagreement(logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """T² KL(teacher ‖ softmax(logits / T)), the mean over the batch. teacher: what `softened` gives."""
    return TEMPERATURE**2 * F.kl_div(F.log_softmax(logits.float() / TEMPERATURE, dim=1), teacher, reduction="batchmean")
