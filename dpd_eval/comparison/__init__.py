"""Students on a distilled set and on real subsets, and what their accuracies say."""
