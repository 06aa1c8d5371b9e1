"""Which images of a bundle an audit generates and tests."""

from dpd_eval.audited_model import blocks_of_each_way
from dpd_runtime.sampler import BlockGuidance, Sampler


def test_images_are_judged_of_each_way_that_the_sampler_has() -> None:
    """Decoded images in the first five blocks, re-noised up to the fiftieth, sampled from there on."""
    sampler = Sampler(guidance=tuple(BlockGuidance(from_block=block) for block in (0, 5, 50)))
    assert blocks_of_each_way(sampler, 5) == [0, 5, 50, 1, 6]
    assert blocks_of_each_way(sampler, 2) == [0, 5]
    many = blocks_of_each_way(sampler, 120)
    assert len(set(many)) == 120
    assert {*range(50)} <= set(many), "those ways that end do end"
    assert blocks_of_each_way(Sampler(), 4) == [0, 1, 2, 3]
    short = Sampler(guidance=(BlockGuidance(), BlockGuidance(from_block=1)))
    assert blocks_of_each_way(short, 4) == [0, 1, 2, 3]
