"""A distillation: what was asked for and planned, and the stages that make it."""
