"""Phrases for images: `attributes` measures, `clip:ID` scores a fixed vocabulary, `vlm:ID` asks a language model."""

from dpd_train.captions.captioners.describe import check_captioner, check_captioner_source, describe_scenes

__all__ = ["check_captioner", "check_captioner_source", "describe_scenes"]
