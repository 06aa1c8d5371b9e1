"""Networks that embed images: one protocol, several extractors."""
