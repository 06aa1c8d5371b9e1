"""The accepted shapes of prototypes, by kind."""

import pytest

from dpd_runtime.sampler import fits

LATENT = (4, 16, 16)


@pytest.mark.parametrize(
    ("kind", "shape", "good"),
    [
        ("centroid", (5, 4, 16, 16), True),
        ("centroid", (0, 4, 16, 16), True),
        ("centroid", (5, 4, 4, 4), False),
        ("medoid", (5, 4, 16, 16), True),
        ("medoid", (5, 4, 8, 8), False),
        ("pooled", (5, 4, 4, 4), True),
        ("pooled", (5, 4, 16, 16), True),
        ("pooled", (0, 4, 16, 16), True),
        ("pooled", (5, 3, 4, 4), False),
        ("pooled", (5, 4, 5, 5), False),
        ("pooled", (5, 4, 8, 4), False),
        ("pooled", (5, 4, 0, 0), False),
        ("pooled", (5, 4, 32, 32), False),
        ("pooled", (4, 16, 16), False),
        ("pooled", (), False),
        ("centroid", (), False),
    ],
)
def test_prototypes_fit_the_latents(kind: str, shape: tuple[int, ...], good: bool) -> None:
    assert fits(kind, shape, LATENT) is good
