"""What `dpd info` and `dpd generate` say of how images are made."""

from dpd_cli.terminal import prototype_ranges
from dpd_runtime.sampler import DEFAULT_SAMPLER, BlockGuidance, Sampler, suited_sampler

DECODED = BlockGuidance(prototype_scale=1.0, prototype_until=1.0)


def test_a_line_for_each_way_of_making_images_of_prototypes() -> None:
    table = {"prototype_kind": "matched", "classes": [{"prototype_counts": [5] * 20}]}
    decoded, noised = prototype_ranges(suited_sampler(table))
    assert decoded.startswith("0 to 19 of a class are its prototypes")
    assert noised.startswith("20 to 199 are the same, re-noised")


def test_where_images_are_sampled_nothing_is_said() -> None:
    assert prototype_ranges(DEFAULT_SAMPLER) == []
    assert len(prototype_ranges(Sampler(guidance=(DECODED, BlockGuidance(from_block=3))))) == 1
    assert prototype_ranges(Sampler(guidance=(DECODED,)))[0].startswith(
        "all those of a class are its prototypes, decoded"
    )
