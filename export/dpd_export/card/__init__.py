"""MODEL_CARD.md: the model card that every bundle carries."""
