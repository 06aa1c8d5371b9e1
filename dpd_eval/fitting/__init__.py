"""A classifier for use, trained like the students of an evaluation: `dpd fit`."""
