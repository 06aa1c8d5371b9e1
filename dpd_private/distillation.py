"""`dpd private`: codes with differential privacy, by a path of its own that no figure of private images enters.

The private images are read for their statistics, which are released once. No network is trained on them, nothing that
leaves is chosen by them, and neither an evaluation nor an audit is run. Whether anything leaves does depend on them: on
damaged files, near duplicates among the public images, and the ledger.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from dpd_distill.distillation import Tell, Update, check_places
from dpd_private.request import PrivateRequest
from dpd_runtime.errors import CheckError, DataError, InputError
from dpd_runtime.files import dumps, read_object, write_atomically
from dpd_runtime.text import counted

if TYPE_CHECKING:
    from dpd_private.classifier import ReleasedClassifier
    from dpd_private.ledger import Cost, Entry
    from dpd_private.release import Release
    from dpd_runtime.annotations import Float32, Images
    from dpd_runtime.manifest import PrivacyClaim
    from dpd_train.bases import Base
    from dpd_train.classifiers import Labelled
    from dpd_train.scene_set import SceneSet
    from dpd_train.scenes import Scenes


DONE, MADE_WITH = "result.json", "made_with.json"


@dataclass(frozen=True)
class Opened:
    """The images that a distillation works with: each place is opened when it is first needed, and once."""

    asked: PrivateRequest

    @cached_property
    def private(self) -> "Scenes":
        """Scenes of which each file is read alone: the guarantee is for one file."""
        from dpd_train.scenes import open_scenes

        return replace(open_scenes(Path(self.asked.data), self.asked, self.asked.reading), together=False)

    @cached_property
    def public(self) -> "Scenes | None":
        """None for drawn scenes."""
        from dpd_train.scenes import open_scenes

        if self.asked.public is None:
            return None
        return open_scenes(Path(self.asked.public), self.asked.elsewhere, self.asked.reading)


def begin_privately(asked: PrivateRequest, opened: Opened) -> PrivateRequest:
    """Check everything before anything is trained, and store what was asked for. Returns it with the counts.

    Raises:
        DataError, InputError: unusable data, options or places, or too few images for epsilon; nothing is written then.
    """
    from dpd_private.ledger import ledger_folder, open_ledger
    from dpd_runtime.classifier import check_place
    from dpd_train.base_files import check_base_bands
    from dpd_train.rasters import require_rasterio
    from dpd_train.run import check_base_at, check_classes

    check_places(asked.folder, Path(asked.out))
    check_place(asked.classifier, overwrite=False)
    _ = asked.options  # raises where no bundle can have this name
    check_base_at(asked.base, asked.resolution)
    check_base_bands(asked.base, ())
    if not asked.reading.plain:
        require_rasterio()
        if asked.reading.limits is None:
            raise InputError(
                "dpd private needs a stretch that does not depend on the images: give pixel values, such as "
                "--stretch 0:3000"
            )
    counts = opened.private.counts("train")
    check_classes(Path(asked.data), tuple(counts))
    asked = replace(asked, counts=counts)
    public = None if opened.public is None else opened.public.counts("all")
    _check_guarantee(asked)
    if public is not None and (images := sum(public.values())) < asked.ipc:
        raise InputError(
            f"--public {asked.public}: has {counted(images, 'image')}, fewer than --ipc {asked.ipc}; add some"
        )
    open_ledger(ledger_folder())
    _check_ledger(asked, _entry(asked, opened.private))
    asked.store()
    return asked


def repeated_scenes(private: "Scenes") -> list[str]:
    """A line if images show scenes that others show too, for the user alone: it depends on the private images."""
    counted = private.counted("train")
    if sum(counted.scenes.values()) == sum(counted.images.values()):
        return []
    return [f"note          {counted}: epsilon is for one image, and a scene that is in k of them has k times as much"]


def _check_guarantee(asked: PrivateRequest) -> list[str]:
    """Check what the guarantee rests on; again where a distillation goes on, as folders may have changed.

    Returns:
        the classes of which the base knows images, maybe of other places.

    Raises:
        DataError, InputError: base or public images may have something of the private ones, or too few images for ε.
    """
    from dpd_private.apart import check_base_apart, check_places_apart
    from dpd_private.budget import check_budget
    from dpd_train.base_files import base_folder

    shared = check_base_apart(asked.base, base_folder(asked.base), tuple(asked.counts))
    if asked.public is not None:
        check_places_apart(Path(asked.data), Path(asked.public))
    check_budget(asked.budget, asked.counts)
    return shared


def _entry(asked: PrivateRequest, private: "Scenes") -> "Entry":
    """What the ledger will say of this release: all training images, as a later one may hold out others."""
    from dpd_private.budget import mu_of
    from dpd_private.ledger import entry_of
    from dpd_train.reading import PLAIN

    files = private.read_as(PLAIN)  # by the bytes of the files, however they are read
    return entry_of(asked.identity, mu_of(asked.budget), files.hashes("train").values())


def _with_an_identity_of_its_own(asked: PrivateRequest) -> PrivateRequest:
    """The request, with another identity if the ledger has this one although no release is here.

    The release was deleted, or this folder is a copy from before it: the entry then stays, as an earlier release. After
    a kill between entry and release this counts one too many.
    """
    from dpd_private.ledger import ledger_folder, read_ledger

    if all(entry.identity != asked.identity for entry in read_ledger(ledger_folder())):
        return asked
    asked = replace(asked, identity=token_hex(8))
    asked.store()
    return asked


def _check_ledger(asked: PrivateRequest, entry: "Entry") -> "Cost":
    """What this and earlier releases cost together.

    Raises:
        InputError: more than --most-epsilon, or the ledger is damaged.
    """
    from dpd_private.ledger import cost_of, ledger_folder, read_ledger

    cost = cost_of(entry, read_ledger(ledger_folder()), asked.delta)
    if asked.most_epsilon is not None and cost.epsilon > asked.most_epsilon:
        raise InputError(
            f"--most-epsilon {asked.most_epsilon:g}: with {_earlier(cost)} this one would cost epsilon "
            f"{cost.epsilon:g} together; nothing was released: take a smaller --epsilon"
        )
    return cost


def distil_privately(
    asked: PrivateRequest, opened: Opened, stage: Callable[[str], Update], tell: Tell
) -> dict[str, Any]:
    """Make everything that is not there yet. Returns the facts for the user.

    Raises:
        DataError: an image cannot be used, or is both private and public.
        InputError: the base's decoder is too large for a CPU, or another session works in the folder.
    """
    from dpd_runtime.files import KEEPS_APART, FileLock

    if not KEEPS_APART:
        raise InputError(
            "dpd private needs file locks, which this system lacks: two sessions could release the images twice"
        )
    lock = FileLock(asked.folder / "session.lock")
    if not lock.acquire():
        raise InputError(f"{asked.folder}: another dpd private works there; two would release the images twice")
    try:
        return _distil(asked, opened, stage, tell)
    finally:
        lock.release()


def _distil(asked: PrivateRequest, opened: Opened, stage: Callable[[str], Update], tell: Tell) -> dict[str, Any]:
    import torch

    from dpd_private.apart import check_images_apart
    from dpd_private.codes import PrivateInputs, private_codes
    from dpd_runtime.machine import idle_cores
    from dpd_train.compute import use_device

    finished = asked.folder / DONE
    if not finished.exists():
        torch.set_num_threads(asked.threads or idle_cores())
        device = use_device("auto")
        base = _base(asked, device)
        told = f"{counted(sum(asked.counts.values()), 'image')} of {counted(len(asked.counts), 'class')}"
        tell(f"private       {told}, which base {asked.base} must never have seen")
        if shared := _check_guarantee(asked):
            tell(f"note          base {asked.base} knows {', '.join(shared)}: if from yours, the guarantee is void")
        private = _private_images(asked, opened, base.resolution)
        hand_over = _nothing_more
        if private is not None:
            asked = _with_an_identity_of_its_own(asked)
            if copies := len(private.hashes) - len({*private.hashes}):
                tell(
                    f"note          {counted(copies, 'file is a copy of another', 'files are copies of others')}: "
                    "the guarantee is for one file, not for both"
                )
            entry = _entry(asked, opened.private)
            _tell_cost(_check_ledger(asked, entry), asked, tell)
            hand_over = partial(_handed_over, asked, entry, private)
        public = _public_images(asked, opened.public, base.resolution, stage, tell)
        if private is not None and asked.public is not None:
            check_images_apart(Path(asked.public), private, public)
        _check_same(asked, base, public, released=private is None)
        inputs = PrivateInputs(
            private=hand_over,
            counts=tuple(asked.counts.values()),
            public=public,
            base=base,
            folder=asked.folder,
        )
        made = private_codes(inputs, asked.budget, asked.ipc, asked.seed, stage, device=device)
        claim = _claim(made.release, asked)
        written = _export(asked, made.base, made.codes, claim, stage, tell)
        _save_classifier(asked, made.classifier, public.images[:2], claim)
        places = {"run": str(asked.folder), "classifier": str(asked.classifier)}
        result = written | {"codes": asked.ipc, "read_with": _read_with(asked), "privacy": asdict(claim)} | places
        write_atomically(finished, dumps(result))
    content: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return content


def _read_with(asked: PrivateRequest) -> dict[str, Any]:
    """Options with which `dpd evaluate` tests on the images that were held out here; `val` in DATA needs none."""
    from dpd_train.scenes import open_source

    data = Path(asked.data)  # which may have gone after its release
    parts = open_source(data, allow_outside=True).parts if data.exists() else ()
    unneeded = asked.held_out_options if "val" in parts else {}
    return {name: value for name, value in asked.image_options.items() if name not in unneeded}


def _check_same(asked: PrivateRequest, base: "Base", public: "SceneSet", *, released: bool) -> None:
    """Note what the release is made with, or check that what is made after it uses the same.

    Raises:
        InputError: base or public images have changed since. Nobody has compared these with the private ones.
    """
    from dpd_train.bases import weights_hash
    from dpd_train.scene_set import fingerprint

    path = asked.folder / MADE_WITH
    made_with = {"base": weights_hash(base.vae), "public": fingerprint(public)["sha256"]}
    if not released:
        write_atomically(path, dumps(made_with))
        return
    before = read_object(path, str(path), "begin again with another --out")
    if changed := [name for name, digest in made_with.items() if before.get(name) != digest]:
        raise InputError(
            f"{asked.folder}: --{changed[0]} has changed since the release; give back what was there, or begin again "
            "with another --out, which costs a second release"
        )


def _base(asked: PrivateRequest, device: Any) -> "Base":
    from dpd_train.bases import DECODER_LIMIT, at_resolution, decoder_fits, load_base

    base = load_base(asked.base)
    if not decoder_fits(base, device):
        raise InputError(
            f"--base {asked.base}: its decoder runs thousands of times, which on a CPU suits decoders below "
            f"{DECODER_LIMIT / 1e6:.0f} M parameters; take a smaller base, or a machine with CUDA"
        )
    side = asked.resolution or base.resolution
    return base if side == base.resolution else at_resolution(base, side)


def _private_images(asked: PrivateRequest, opened: Opened, side: int) -> "SceneSet | None":
    """The private images, read now, so that a file that cannot be used is found before anything is trained.

    None after their release.
    """
    import numpy as np

    from dpd_private.codes import RELEASE

    if (asked.folder / RELEASE).exists():
        return None
    scenes = opened.private.part("train", side, keep=False)
    if scenes.rejected:
        first = scenes.rejected[0]
        raise DataError(
            f"{asked.data}: {first.path}: {first.reason}; the number of images of a class is public, so each file "
            "must be an image: repair it and continue, or take it away and begin again with another --out; nothing was "
            "released"
        )
    if np.bincount(scenes.labels).tolist() != list(asked.counts.values()):
        raise DataError(f"{asked.data}: has changed since the distillation began; choose another --out")
    return scenes


def _handed_over(asked: PrivateRequest, entry: "Entry", private: "SceneSet") -> "Labelled":
    """The private images for their release, which is in the ledger before anything of it exists.

    Of two distillations at once the second one sees the first, also where its folder is a copy of the other's, which
    then has the same identity.
    """
    from dpd_private.ledger import alone, ledger_folder, write_entry
    from dpd_train.classifiers import labelled

    with alone(ledger_folder()):
        entry = replace(entry, identity=_with_an_identity_of_its_own(asked).identity)
        _check_ledger(asked, entry)
        write_entry(ledger_folder(), entry)
    return labelled(private)


def _tell_cost(cost: "Cost", asked: PrivateRequest, tell: Tell) -> None:
    if cost.earlier:
        tell(f"ledger        {_earlier(cost)}: with this one epsilon {cost.epsilon:g}, delta {asked.delta:g} together")


def _earlier(cost: "Cost") -> str:
    return f"{counted(cost.earlier, 'earlier release')} of {counted(cost.shared, 'image')} of DATA"


def _nothing_more() -> "Labelled":
    raise RuntimeError("the private images were asked for after their release")


def _public_images(
    asked: PrivateRequest, public: "Scenes | None", side: int, stage: Callable[[str], Update], tell: Tell
) -> "SceneSet":
    from dpd_private.public import drawn_images, read_public

    if public is None:
        return drawn_images(side, asked.seed, stage("drawn scenes"))
    scenes = read_public(public, side, asked.seed)
    if scenes.rejected:
        tell(f"public        {counted(len(scenes.rejected), 'file')} left out, first {scenes.rejected[0].path}")
    if len(scenes.labels) < asked.ipc:
        raise DataError(
            f"--public {asked.public}: has {counted(len(scenes.labels), 'usable image')}, --ipc is {asked.ipc}"
        )
    return scenes


def _save_classifier(
    asked: PrivateRequest, network: "ReleasedClassifier", examples: "Images", claim: "PrivacyClaim"
) -> None:
    from dpd_export.classifier import save_classifier

    save_classifier(
        asked.classifier,
        network,
        examples,
        classes=tuple(asked.counts),
        described="linear discriminants of released statistics",
        training={"privacy": asdict(claim), "images": sum(asked.counts.values())},
        overwrite=True,
    )


def _claim(release: "Release", asked: PrivateRequest) -> "PrivacyClaim":
    """What the manifest says: ε by an independent accountant, from the noise in the stored release."""
    from dpd_private.budget import spent
    from dpd_runtime.manifest import ONE_IMAGE, PrivacyClaim

    epsilon = spent(release.sensitivity, release.noise, asked.delta)
    if epsilon > asked.epsilon:
        raise CheckError(
            f"the accountant finds epsilon {epsilon:g}, more than --epsilon {asked.epsilon:g}; report this error"
        )
    return PrivacyClaim(
        epsilon=epsilon,
        delta=asked.delta,
        unit=ONE_IMAGE,
        mechanism="Gaussian noise on clipped class sums, squared lengths and one second moment for each watcher, "
        "released once",
        noise_multipliers={"class_sums_and_second_moment": release.noise / release.sensitivity},
    )


def _export(
    asked: PrivateRequest,
    base: "Base",
    codes: "Float32",
    claim: "PrivacyClaim",
    stage: Callable[[str], Update],
    tell: Tell,
) -> dict[str, Any]:
    from dpd_export.bundle import PrivateSet, export_private
    from dpd_train.base_files import SHIPPED_BASE, base_folder
    from dpd_train.bases import save_base

    pipeline = asked.folder / "pipeline"
    save_base(base, pipeline, base_folder(asked.base) / "tokenizer")
    made = PrivateSet(
        base=base,
        pipeline=pipeline,
        shipped=asked.base == SHIPPED_BASE,
        counts=asked.counts,
        codes=codes,
        claim=claim,
    )
    return export_private(made, Path(asked.out), asked.options, progress=stage("exporting"), tell=tell)
