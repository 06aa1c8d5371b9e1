"""Students: the classifiers that are trained on every arm of an evaluation."""
