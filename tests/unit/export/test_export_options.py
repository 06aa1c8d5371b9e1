"""`dpd export --sampler`: the sampler settings of a bundle."""

import pytest

from dpd_export.options import ExportOptions, changed_sampler
from dpd_runtime.errors import InputError
from dpd_runtime.sampler import DEFAULT_SAMPLER


def test_named_settings_change_and_no_others() -> None:
    found = changed_sampler(DEFAULT_SAMPLER, "solver=ddim,steps=7,mean_noise_gain=1.5,guidance_scale=3")
    assert (found.solver, found.steps, found.mean_noise_gain) == ("ddim", 7, 1.5)
    assert [g.guidance_scale for g in found.guidance] == [3.0, 3.0]
    assert [g.prototype_scale for g in found.guidance] == [g.prototype_scale for g in DEFAULT_SAMPLER.guidance]
    assert found.candidates == DEFAULT_SAMPLER.candidates
    assert changed_sampler(DEFAULT_SAMPLER, "") == DEFAULT_SAMPLER


def test_guidance_from_a_block_on() -> None:
    found = changed_sampler(DEFAULT_SAMPLER, "guidance_scale=4", from_block=3)
    assert [found.guidance_for(block).guidance_scale for block in range(5)] == [1.5, 1.25, 1.25, 4.0, 4.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stps=7", "--sampler stps=7: write NAME=VALUE"),
        ("steps", "'' is no int"),
        ("steps=seven", "'seven' is no int"),
        ("steps=0", "sampler.steps is 0, it must be 1 … 1000"),
        ("guidance_scale=nan", "guidance_scale is nan, it must be 1 … 50"),
        ("solver=heun", "there are ddim"),
        ("from_block=1", "write NAME=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        changed_sampler(DEFAULT_SAMPLER, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"name": "x" * 201}, "--name"),
        ({"name": "site\u200b"}, "--name"),
        ({"data_licence": "x" * 2001}, "--data-licence"),
        ({"base_licence": "CC\x1b[2J"}, "--base-licence"),
    ],
)
def test_texts_that_no_manifest_may_hold_are_refused_before_the_export(given: dict[str, str], option: str) -> None:
    with pytest.raises(InputError, match=rf"{option} '.*: give at most \d+ letters") as caught:
        ExportOptions(**given)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    ExportOptions(name="x" * 200, data_licence="y" * 2000, base_licence="z" * 2000)
