"""Which images of a class are made how, in words."""

from dpd_runtime.sampling.sampler import BLOCK, Sampler


def prototype_ranges(sampler: Sampler) -> list[str]:
    """A line for each way of making images of prototypes; none where the first images are drawn."""
    guidance = sampler.guidance
    if not guidance[0].decodes:
        return []
    ends = [BLOCK * later.from_block for later in guidance[1:]]
    told = "of a class are its prototypes, decoded and turned by the seed"
    if not ends:
        return [f"all {told}"]
    lines = [f"0 to {ends[0] - 1} {told}"]
    if guidance[1].begins_at_prototypes:
        last = f"{ends[0]} to {ends[1] - 1}" if len(ends) > 1 else f"from {ends[0]} on"
        lines.append(f"{last} are the same, noised and denoised again")
    return lines
