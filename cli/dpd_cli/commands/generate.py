"""`dpd generate`: a bundle → a distilled set."""

import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dpd_cli.options import (
    AllowOlder,
    BundleOrEmbedded,
    Json,
    Key,
    Overwrite,
    Precision,
    Provider,
    Require,
    RuntimeDevice,
    TrustedKey,
    open_bundle,
    runtime_device,
    under,
)
from dpd_cli.terminal import freshness_lines, print_json, progress_bar, signature_facts
from dpd_runtime.errors import InputError, SetHashError
from dpd_runtime.text import counted, listed_names, shown

if TYPE_CHECKING:
    from dpd_runtime.bundle import Bundle
    from dpd_runtime.dataset import DistilledSet
    from dpd_runtime.formats import Output
    from dpd_runtime.generation import Generation
    from dpd_runtime.sampler import Sampler
    from dpd_runtime.set_state import Shard as Part

NEXT = {
    "imagefolder": "dpd fit {out} --out model, or compare: dpd evaluate {out} --train DATA --test DATA",
    "webdataset": "read it with webdataset, or in Python: datasets.load_dataset({path!r})",
    "parquet": "read it in Python: datasets.load_dataset({path!r})",
    "npz": "read set.npz in Python: numpy.load",
}
"""What to do with a set of each format."""
WITHOUT_TORCH = "train on it as an ImageFolder; with {install} also: dpd fit {out} --out model"
OF_BANDS = "train on its GeoTIFF files, or compare: dpd evaluate {out} --train DATA --test DATA --bands all"
SAMPLES = "Setting this samples all images instead of decoding prototypes."

Ipc = Annotated[
    int | None, under("Images", "Images per class. Default: 10, or as many as a bundle of fewer codes makes.")
]
Seed = Annotated[int, under("Images", "Random seed. The same seed gives the same pixels.")]
Classes = Annotated[
    str | None,
    under("Images", "Names of classes, separated by commas, one that has a comma in double quotes. Default: all."),
]
SoftLabels = Annotated[
    bool, under("Images", "Add class probabilities from the bundle's teacher to every image.", "--soft-labels")
]
Steps = Annotated[int | None, under("Sampling", f"Solver steps. {SAMPLES} Default: the bundle's.")]
Solver = Annotated[
    str | None,
    under(
        "Sampling",
        f"Solver; lcm and tcd are for models distilled for them. {SAMPLES} Default: the bundle's.",
        metavar="ddim|dpm++2m|unipc|euler|lcm|tcd",
    ),
]
Candidates = Annotated[int | None, under("Sampling", f"Candidates per kept image. {SAMPLES} Default: the bundle's.")]
GuidanceScale = Annotated[
    float | None, under("Sampling", f"Classifier-free guidance; 1 is none. {SAMPLES} Default: the bundle's.")
]
Out = Annotated[Path, under("Output", "Folder of the distilled set. An unfinished set is completed.")]
FormatName = Annotated[
    str, under("Images", "Form of the set.", "--format", metavar="imagefolder|webdataset|parquet|npz")
]
ImageFormat = Annotated[
    str | None,
    under("Images", "Encoding of the images; jpeg and webp are lossy. Default: png.", metavar="png|jpeg|webp|tiff"),
]
Expect = Annotated[
    str | None,
    under(
        "Output",
        "Fail with exit code 1 unless the set has this hash; of several shards, the last one checks it.",
        metavar="HASH",
    ),
]
Shard = Annotated[
    str | None,
    under(
        "Several machines",
        "Compute part i of n, i from 0, of a set that all parts share at the same --out.",
        metavar="i/n",
    ),
]
Ray = Annotated[
    str | None,
    under(
        "Several machines",
        "Compute on a Ray cluster: its address, or local. Needs the extra ray.",
        metavar="ADDRESS",
    ),
]


def generate_command(
    bundle: BundleOrEmbedded = None,
    ipc: Ipc = None,
    out: Out = Path("distilled"),
    seed: Seed = 0,
    classes: Classes = None,
    steps: Steps = None,
    solver: Solver = None,
    candidates: Candidates = None,
    guidance_scale: GuidanceScale = None,
    provider: Provider = "auto",
    device: RuntimeDevice = "auto",
    precision: Precision = "fp32",
    format_name: FormatName = "imagefolder",
    image_format: ImageFormat = None,
    soft_labels: SoftLabels = False,
    shard: Shard = None,
    ray: Ray = None,
    expect: Expect = None,
    key: Key = None,
    trusted_key: TrustedKey = None,
    require: Require = None,
    allow_older: AllowOlder = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Generate a training set from a bundle, without PyTorch.

    If the bundle has matched codes, the first images of each class are these codes, decoded.

    Examples:
        dpd generate --ipc 10 --out distilled
        dpd generate site.dpd
        dpd generate site.dpd --ipc 50 --seed 3 --out set3
        dpd generate site.dpd --ipc 50 --format parquet --soft-labels --out table
        dpd generate site.dpd --ipc 500 --shard 3/16 --out /shared/set
        dpd generate site.dpde --key secret.txt --require signature
    """
    from dpd_runtime.formats import Output

    part, output = _part(shard, overwrite), Output(format_name, image_format, soft_labels)
    output.check()
    expect = None if expect is None else _set_hash(expect)
    opened = open_bundle(bundle, key, trusted_key, require, allow_older=allow_older)
    sampling = {"steps": steps, "solver": solver, "candidates": candidates, "guidance_scale": guidance_scale}
    provider, number = runtime_device(device, provider)
    running: dict[str, Any] = {"provider": provider, "device": number, "precision": precision}
    ipc = opened.usual_ipc if ipc is None else ipc
    generation = _generation(opened, ray, sampling, classes, ipc=ipc, seed=seed, **running)
    _write(generation, out, output, part, overwrite, expect, json_output)


def _write(
    generation: "Generation",
    out: Path,
    output: "Output",
    part: "Part",
    overwrite: bool,
    expect: str | None,
    json_output: bool,
) -> None:
    """Write the set, compare its hash, which a shard does not have, and say what was written."""
    from dpd_runtime.dataset import write_set
    from dpd_runtime.networks import SOFT_LABELS_NAME, check_teacher

    if output.soft_labels:
        check_teacher(generation.bundle)
    labelled = (out / SOFT_LABELS_NAME).exists()
    started = time.monotonic()
    with progress_bar("generating") as progress:
        result = write_set(generation, out, progress, output, part, overwrite=overwrite)
    seconds = time.monotonic() - started
    if expect is not None and result.set_hash is not None and result.set_hash != expect:
        raise SetHashError(result.set_hash, expect)
    _print(result, generation, output, seconds, f"shard {part}: ", json_output)
    if labelled and not output.soft_labels and not json_output:
        print("labels    soft labels were removed; the same command with --soft-labels makes them again")


def _set_hash(expect: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", expect.lower()):
        raise InputError(f"--expect {expect}: is no set hash, which has 64 hexadecimal digits; dpd generate prints it")
    return expect.lower()


def _part(shard: str | None, overwrite: bool) -> "Part":
    from dpd_runtime.set_state import WHOLE, parse_shard

    part = WHOLE if shard is None else parse_shard(shard)
    if overwrite and part != WHOLE:
        raise InputError("--overwrite with --shard would delete what other shards have made: remove the set first")
    return part


def _generation(
    opened: "Bundle", ray: str | None, sampling: dict[str, Any], classes: str | None, **options: Any
) -> "Generation":
    from dpd_runtime.generation import generate, resolve_sampler

    options["sampler"] = resolve_sampler(opened.manifest.sampler, **sampling)
    options["classes"] = None if classes is None else listed_names(classes, [one.name for one in opened.classes])
    if ray is None:
        return generate(opened, **options)
    if options["device"] is not None:
        raise InputError("--device has no effect with --ray, which gives each worker a GPU")
    from dpd_runtime.ray import RayGeneration

    generation = RayGeneration(opened, **options)
    generation.connect(ray)
    return generation


def _print(
    result: "DistilledSet", generation: "Generation", output: "Output", seconds: float, shard: str, json_output: bool
) -> None:
    out = result.out
    if json_output:
        facts = {
            "out": str(out),
            "images": result.images,
            "classes": result.classes,
            "seconds": round(seconds, 2),
            "images_per_second": round(result.computed / seconds, 3),
            "network_calls": generation.network_calls,
            "provider": generation.provider.name,
            "set_hash": result.set_hash,
            "bundle_hash": generation.bundle.hash,
            "audit": generation.bundle.manifest.audit,
            **signature_facts(generation.bundle),
        }
        print_json(facts)
        return
    bundle, sampler = generation.bundle, generation.sampler
    whose = "" if result.set_hash else shard
    print(f"signature {bundle.signature.describe()}")  # first: a bundle's author chose its name
    if bundle.manifest.serial and not bundle.remembered:
        for line in freshness_lines(bundle):
            print(f"          {line}")
    there = result.images - result.computed
    old = f", {there} were there already" if there else ""
    print(
        f"{whose}{counted(result.images, 'image')} of {counted(result.classes, 'class')} in {out}/ "
        f"({result.computed} computed now{old})"
    )
    print(f"bundle    {bundle.manifest.name}, audit: {bundle.manifest.audit}")
    print(
        f"provider  {generation.provider.name} ({generation.provider.reason}); dpd doctor says which others work here"
    )
    print(f"images    {_kinds(sampler, generation.ipc)}")
    if sampler != bundle.manifest.sampler and bundle.manifest.sampler.guidance[0].begins_at_prototypes:
        print("          because of a sampling option; without one the first are decoded")
    calls = generation.network_calls * sampler.candidates
    print(f"time      {seconds:.1f} s, {calls:.3g} UNet evaluations per kept image")
    if result.set_hash is None:
        left = counted(result.left, "image is", "images are")
        print(f"set hash  none yet: {left} left to other shards; the last shard finishes the set")
    else:
        print(f"set hash  {result.set_hash}")
        print(f"look at   {out}/contact_sheet.png")
        print(f"next      {_way(generation, output, out)}")


def _way(generation: "Generation", output: "Output", out: Path) -> str:
    """What to do with the set."""
    from dpd_runtime.installation import install_command

    words = NEXT["imagefolder"] if find_spec("torch") is not None else WITHOUT_TORCH
    if output.format != "imagefolder":
        words = NEXT[output.format]
    elif generation.bundle.manifest.bands:
        words = OF_BANDS
    return words.format(out=shown([out]), path=str(out), install=install_command("fit"))


def _kinds(sampler: "Sampler", ipc: int) -> str:
    """Say which of a class's images are decoded, which re-noised and which sampled."""
    from dpd_runtime.sampler import BLOCK

    starts: dict[str, int] = {}
    for guidance in sampler.guidance:
        if BLOCK * guidance.from_block < ipc:
            starts.setdefault(guidance.kind, BLOCK * guidance.from_block)
    ends = [*list(starts.values())[1:], ipc]
    if len(starts) == 1:
        return f"all are {next(iter(starts))}"
    return (
        ", ".join(f"{start} to {end - 1} {kind}" for (kind, start), end in zip(starts.items(), ends, strict=True))
        + " of each class"
    )
