"""The privacy audit: compare what leaves the site with the training images and with a hold-out."""
