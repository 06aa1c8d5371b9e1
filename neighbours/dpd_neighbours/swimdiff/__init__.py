"""SwiMDiff: an encoder trained without labels, and its command."""
