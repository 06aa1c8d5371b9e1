"""Words for images: `attributes` measures them, `clip:ID` scores a fixed vocabulary, `vlm:ID` asks a model to write."""

from dpd_train.captions.captioners.describe import check_captioner, describe_scenes

__all__ = ["check_captioner", "describe_scenes"]
