"""Small classifiers of images and latents: network, training, pools of several, scores of training images."""
