"""Which images a training step takes."""

import torch


def draw_rows(count: int, batch: int, weights: torch.Tensor | None, generator: torch.Generator) -> torch.Tensor:
    """Rows [batch] int64 of 0 … count − 1, with repetition; all on the CPU.

    weights: [count], what share of the draws each row gets, up to a factor; None: each the same.
    """
    if weights is None:
        return torch.randint(count, (batch,), generator=generator)
    if len(weights) != count:
        raise ValueError(f"{len(weights)} weights for {count} rows")
    return torch.multinomial(weights, batch, replacement=True, generator=generator)
