"""`dpd distill` and `dpd private` with short stages and every checkpoint, killed if asked. Not a test itself.

`short_main`, run as `dpd STAGE:UPDATE ARGUMENTS...`, kills itself at that update of the stage's progress, or never if
the first argument is "never"; after "interrupt " it sends itself Ctrl-C, and a library loses it. The other arguments
are those of dpd. With "released:FILE" instead, the private images are measured and noise is drawn, and then the release
in FILE takes the place of what was found.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import dpd_cli.commands.distill as command
import dpd_distill.distillation as stages
import dpd_eval.extractors as own
import dpd_eval.inputs as evaluation_inputs
from dpd_cli import terminal
from dpd_cli.main import main
from dpd_cli.terminal import Update
from dpd_distill import plan
from dpd_private import budget, choice, decoder, public
from dpd_private import codes as private_codes
from dpd_private import command as private_command
from dpd_private.release import Release, read_release, release
from dpd_train import loop, matching
from dpd_train import stages as run_stages

load_recipe, own_extractor = evaluation_inputs.load_recipe, own.own_extractor


class Library:
    """Its end is where a Ctrl-C comes, so that Python loses it."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def killing(stage: str, update: int) -> Callable[[], Any]:
    stage, interrupt = stage.removeprefix("interrupt "), stage.startswith("interrupt ")

    @contextmanager
    def stages() -> Iterator[Callable[[str], Update]]:
        def begun(title: str) -> Update:
            seen = 0

            def told(done: int, total: int) -> None:
                nonlocal seen
                terminal.check()
                seen += 1
                if re.sub(r"^\d/\d ", "", title) == stage and seen == update:
                    if interrupt:
                        Library()
                    else:
                        os.kill(os.getpid(), signal.SIGKILL)

            return told

        yield begun

    return stages


def shorten() -> None:
    usual = plan.full_plan
    plan.full_plan = lambda *steps: plan.shortened(replace(usual(*steps), watcher_steps=2), 0.004)
    plan.SHORTEST_WATCHERS = 2
    plan.MOST_TUNING = plan.MOST_MATCHING = plan.LEAST_MATCHING = plan.SMALL_MATCHING = 6
    plan.AUDIT_IMAGES, matching.VIEWS, run_stages.PUBLISHED_VIEWS = 20, 100, 100
    matching.CHECKPOINT_SECONDS = loop.CHECKPOINT_SECONDS = 0.0
    evaluation_inputs.load_recipe = lambda name: replace(load_recipe(name), steps=3, full_steps=0, warmup=1, batch=8)
    stages._recipe = lambda made: evaluation_inputs.load_recipe("quick")
    decoder.STEPS, choice.LEAST, choice.CANDIDATES = 2, 30, 1
    public.STEPS, public.DRAWN, budget.WIDTHS = 2, 3, (8,)
    own.own_extractor = lambda train, cache, progress, device: own_extractor(train, cache, progress, steps=3)


def releasing(path: Path) -> Callable[..., Release]:
    def stored(*inputs: Any, **options: Any) -> Release:
        found, told = release(*inputs, **options), read_release(path, torch.device("cpu"))
        assert found.counts == told.counts
        assert not torch.equal(found.statistics[0].class_means, told.statistics[0].class_means)
        return told

    return stored


def short_main() -> None:
    stage, _, update = sys.argv.pop(1).partition(":")
    shorten()
    if stage == "released":
        private_codes.release = releasing(Path(update))
    else:
        stages = killing(stage, int(update or 0))
        command.stage_progress = private_command.stage_progress = stages  # type: ignore[assignment]

        @contextmanager
        def bar(title: str) -> Iterator[Update]:
            with stages() as begun:
                yield begun(title)

        command.progress_bar = bar  # type: ignore[assignment]
    main()
