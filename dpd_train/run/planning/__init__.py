"""The plan of `dpd distill`: how long each stage takes on this machine, and how many steps fit into the time."""
