"""What an audit reads of what it judges, and which images of a bundle it generates and tests."""

from pathlib import Path

import pytest

from dpd_eval.audited_model import blocks_of_each_way
from dpd_eval.subject import open_audited, subject_of
from dpd_runtime.errors import InputError
from dpd_runtime.sampler import BlockGuidance, Sampler
from tests.unit.eval.test_fit import write_set


def test_a_set_is_no_larger_than_memory_is(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", 2)
    assert len(subject_of(open_audited(folder)).files) == 4
    with (folder / "A" / ".hidden").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match=r"in all of its 5 files, 1099\.5 GB: more than a quarter of the"):
        subject_of(open_audited(folder))


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
