"""Classifiers of images and latents: teachers, judges, pools of small networks, scores of training images."""
