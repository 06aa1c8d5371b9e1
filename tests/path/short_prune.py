"""`dpd` with a short search and short tuning of a pruned UNet. Not a test itself."""

from functools import partial

from dpd_cli.main import main
from dpd_neighbours.pruning import pic_pq, prune


def short_main() -> None:
    pic_pq.TRIALS, prune.IMAGES = 2, 8
    prune.recover = partial(prune.recover, steps=2)
    main()
