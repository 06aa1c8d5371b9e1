"""Paired comparison of distilled sets with real subsets: students are trained on each and tested on the same images."""
