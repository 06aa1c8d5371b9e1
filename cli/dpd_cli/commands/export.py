"""`dpd export`: a run → a bundle."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpd_cli.options import Json, Overwrite, named_after, require_torch, under
from dpd_cli.terminal import engine_lines, print_engines, print_json, progress_bar
from dpd_runtime.errors import DpdError, EnginesError, InputError
from dpd_runtime.text import counted, option_words, shown

if TYPE_CHECKING:
    from dpd_export.engines import WantedEngines
    from dpd_export.options import ExportOptions
    from dpd_train.run import Run

DEFAULT_FLAVOUR = "tensorrt-rtx"

RunPlace = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of dpd train.")]
Out = Annotated[
    Path | None,
    under("Bundle", "The bundle: a .dpd file, or a folder if the name has no .dpd ending. Default: RUN.dpd."),
]
Precision = Annotated[
    str,
    under(
        "Bundle",
        "Numbers of the graphs: fp16 computes in half precision where that is safe, fp16-weights computes in float32, "
        "int8 is for CPUs.",
        metavar="fp32|fp16|fp16-weights|int8",
    ),
]
Trt = Annotated[
    bool,
    under(
        "Engines",
        "Also build TensorRT engines, as dpd engines does. If that fails, the bundle is written without them, and the "
        "exit code is 5.",
        "--trt",
    ),
]
Flavour = Annotated[
    str | None,
    under("Engines", f"With --trt: kind of engines. Default: {DEFAULT_FLAVOUR}.", metavar="tensorrt-rtx|tensorrt"),
]
ComputeCapability = Annotated[
    str | None,
    under(
        "Engines",
        "With --trt: GPU types for tensorrt-rtx, such as 86,89,120 for RTX 30, 40 and 50. Default: the GPU of this "
        "machine, or one engine for all.",
    ),
]
Name = Annotated[str | None, under("Bundle", "Name of the bundle. Default: the run's.")]
DataLicence = Annotated[str, under("Bundle", "Licence of the training data, for the manifest.")]
BaseLicence = Annotated[
    str | None, under("Bundle", "Licence of the base. Default: that of the base in the package, if it is the base.")
]
SamplerChanges = Annotated[
    str,
    under(
        "Bundle",
        "Changes to the bundle's sampler, such as steps=20,guidance_scale=2; the guide Export lists them.",
    ),
]
VaeEncoder = Annotated[bool, under("Bundle", "Add the VAE's encoder.", "--vae-encoder")]
DynamicSize = Annotated[
    bool, under("Bundle", "Let UNet and VAE take any height and width, not only the base's.", "--dynamic-size")
]
AllowWeakPrototypes = Annotated[
    bool,
    under("Privacy", "Export centroids or medoids, which show real images.", "--allow-weak-prototypes"),
]
AllowWorse = Annotated[
    bool, under("Bundle", "Write an int8 bundle even if the teacher judges its images differently.", "--allow-worse")
]
Prune = Annotated[
    str | None,
    under("Bundle", "Remove filters of the UNet: pic-pq:0.3 or magnitude:0.3 removes three tenths. Default: none."),
]
CodesOnly = Annotated[
    bool,
    under(
        "Bundle",
        "Leave out the networks that sample and judge: the bundle makes one image from each matched code, no more.",
        "--codes-only",
    ),
]


def export_command(
    run: RunPlace,
    out: Out = None,
    precision: Precision = "fp16",
    trt: Trt = False,
    flavour: Flavour = None,
    compute_capability: ComputeCapability = None,
    name: Name = None,
    data_licence: DataLicence = "unstated",
    base_licence: BaseLicence = None,
    sampler: SamplerChanges = "",
    vae_encoder: VaeEncoder = False,
    dynamic_size: DynamicSize = False,
    allow_weak_prototypes: AllowWeakPrototypes = False,
    allow_worse: AllowWorse = False,
    prune: Prune = None,
    codes_only: CodesOnly = False,
    overwrite: Overwrite = False,
    json_output: Json = False,
) -> None:
    """Export a run as a bundle of ONNX graphs.

    Every graph is compared with PyTorch before the bundle is written.

    Examples:
        dpd export scenes-run
        dpd export run --out site.dpd
        dpd export run --out folder --precision fp32
        dpd export run --out codes.dpd --codes-only
        dpd export run --out site.dpd --trt
        dpd export run --out site.dpd --trt --compute-capability 86,89
    """
    require_torch("export", "cpu")
    out = named_after(run, ".dpd") if out is None else out
    wanted = _wanted(trt, flavour, compute_capability, precision)
    from dpd_export.options import ExportOptions, check_export
    from dpd_train.run import open_run, told_of_networks, told_of_size

    options = ExportOptions(
        precision=precision,
        name=name,
        data_licence=data_licence,
        base_licence=base_licence,
        sampler_changes=sampler,
        vae_encoder=vae_encoder,
        dynamic_size=dynamic_size,
        allow_weak_prototypes=allow_weak_prototypes,
        allow_worse=allow_worse,
        prune=prune,
        codes_only=codes_only,
    )
    finished = open_run(run)
    check_export(finished, out, options, overwrite=overwrite)
    for line in told_of_size(finished.record):
        print(f"note        {line}", file=sys.stderr)
    for line in [] if codes_only else told_of_networks(finished.record):
        print(f"warning     {line}", file=sys.stderr, flush=True)
    if wanted is not None:
        for line in _engine_lines(wanted):
            print(line, file=sys.stderr, flush=True)
    result, faults = _export(finished, out, options, overwrite), [] if wanted is None else list(wanted.faults)
    if wanted is not None and not faults:
        try:
            engines = _build_engines(out, wanted)
            result |= {"bytes": engines["bytes"], "bundle_hash": engines["bundle_hash"], "engines": engines}
        except DpdError as error:
            faults.append(str(error))
    if json_output:
        print_json(result)
    else:
        _print(result, out, options, finished)
    if wanted is not None and faults:
        raise EnginesError(
            f"no engines for {wanted.describe().partition(' for ')[2]}: {'; '.join(faults)}; the bundle {out} is "
            f"complete without them; later: {_later(out, wanted)}"
        )


def _export(run: "Run", out: Path, options: "ExportOptions", overwrite: bool) -> dict[str, Any]:
    from dpd_export.bundle import export_run  # loads PyTorch

    with progress_bar("exporting") as bar:
        return export_run(
            run,
            out,
            options,
            overwrite=overwrite,
            progress=bar,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )


def _print(result: dict[str, Any], out: Path, options: "ExportOptions", run: "Run") -> None:
    kind = f", codes-only: at most --ipc {result['largest_ipc']}" if options.codes_only else ""
    print(f"bundle      {out}  {result['bytes'] / 1e6:.1f} MB, {options.precision}{kind}")
    print(f"hash        {result['bundle_hash']}")
    _print_parity(result["parity"])
    for graph, measured in result["int8"].items():
        _print_int8(graph, result["graphs"][graph]["bytes"], measured)
    if result["pruned"]:
        _print_pruned(result["pruned"])
    if "engines" in result:
        print_engines(result["engines"])
    print("state       unaudited, unsigned")
    ipc = 10 if result["largest_ipc"] is None else result["largest_ipc"]
    made = shown(["dpd", "generate", out, "--ipc", str(ipc), "--out", "distilled"])
    print(f"next        {shown(['dpd', 'verify', out])} · {made}")
    print(f"            before it leaves: {_audit_command(out, run)}")


def _audit_command(out: Path, run: "Run") -> str:
    """The audit of the bundle at `out` beside the images of its run, which are read as the run read them."""
    from dpd_train.config import recorded_split
    from dpd_train.reading import ImageOptions

    config = recorded_split(run.record["config"]) | run.record["config"]
    usual = asdict(ImageOptions())
    read = {name: config[name] for name in usual if config.get(name, usual[name]) != usual[name]}
    given = {"train": "DATA", **read, "run": run.path, "out": "audited.dpd"}
    return shown(["dpd", "audit", out], option_words(given))


def _wanted(trt: bool, flavour: str | None, capability: str | None, precision: str) -> "WantedEngines | None":
    """What to build, or what hinders it, before the minutes that an export takes; None without --trt."""
    given = [option for option, value in (("--flavour", flavour), ("--compute-capability", capability)) if value]
    if not trt and given:
        raise InputError(f"{' and '.join(given)} without --trt: no engine would be built; add --trt")
    if not trt:
        return None
    from dpd_export.builder import parse_capabilities
    from dpd_export.engines import wanted_engines

    named = parse_capabilities(capability) if capability else ()
    return wanted_engines(flavour or DEFAULT_FLAVOUR, named, precision)


def _engine_lines(wanted: "WantedEngines") -> list[str]:
    """What is built for which cards, or everything that is in the way, on stderr before the export."""
    jetson = "" if not wanted.flavour.ahead_of_time else "; a Jetson uses the CPU"
    lines = [f"engines     {wanted.describe()}{jetson}"]
    if wanted.faults:
        lines += [f"            cannot be built here: {fault}" for fault in wanted.faults]
        lines.append("            the bundle is written without engines")
    return lines


def _later(out: Path, wanted: "WantedEngines") -> str:
    """The command that adds the engines later."""
    stem = out.name.removesuffix(".dpd")
    beside = out.with_name(f"{stem}-trt{out.name.removeprefix(stem)}")
    return shown(["dpd", "engines", out, *wanted.options, "--out", beside])


def _build_engines(out: Path, wanted: "WantedEngines") -> dict[str, Any]:
    """Add engines to the finished bundle. If that fails, the bundle stays as it is."""
    from dpd_export.engines import build_engines

    return build_engines(
        out,
        out,
        flavour=wanted.flavour.name,
        compute_capabilities=wanted.capabilities if wanted.flavour.ahead_of_time else (),
        portable=wanted.portable,
        overwrite=True,
        progress=engine_lines(),
    )


def _print_int8(graph: str, size: int, measured: dict[str, Any]) -> None:
    smaller = f"{size / 1e6:.1f} MB, fp32 {measured['fp32_bytes'] / 1e6:.1f} MB"
    print(f"int8        {graph}: {smaller}; one call of {measured['batch']} latents on this CPU:")
    _print_times("fp32", measured["fp32_ms"], measured["int8_ms"])


def _print_pruned(pruned: dict[str, Any]) -> None:
    speed, share = pruned["speed"], pruned["parameters_kept"] / pruned["parameters"]
    print(f"pruned      {pruned['kept']:,} of {pruned['filters']:,} filters, {share:.0%} of all parameters remain")
    print(
        f"            the teacher agrees on {pruned['teacher_agreement']:.1%} of the images with the whole UNet's; "
        f"one call of {speed['batch']} latents on this CPU, in float32:"
    )
    _print_times("whole", speed["whole_ms"], speed["small_ms"])


def _print_times(name: str, before: dict[int, float], after: dict[int, float]) -> None:
    for threads, whole in before.items():
        times = f"{whole / after[threads]:.2f} times as fast"
        print(f"            {counted(threads, 'thread')}: {after[threads]:.0f} ms, {name} {whole:.0f} ms ({times})")


def _print_parity(parity: dict[str, float]) -> None:
    """Print how far each graph and the images are from PyTorch (docs/reference/graphs.md)."""
    half = any(name.endswith("#half") for name in parity)
    title = "  PyTorch in half precision" if half else ""
    print(f"parity      largest difference from PyTorch: random batches, generated latents{title}")
    for graph, difference in parity.items():
        if not graph.endswith(".onnx"):
            continue
        row = f"  {graph:<28} {difference:>14.1e} {parity[graph + '#generated']:>17.1e}"
        print(row + (f" {parity[graph + '#half']:>26.1e}" if half else ""))
    images, worst = parity["end_to_end_images"], parity["end_to_end_worst_psnr_db"]
    compared = f"{images:.0f} images; the worst {worst:.1f} dB" if images > 1 else "one image"
    print(f"images      {parity['end_to_end_psnr_db']:.1f} dB between the bundle's and PyTorch's ({compared})")
    if "teacher_agreement" not in parity:
        return  # a codes-only bundle has no teacher
    print(
        f"teacher     right on {parity['teacher_oa_pytorch']:.1%} of PyTorch's images and "
        f"{parity['teacher_oa_bundle']:.1%} of the bundle's; agrees on {parity['teacher_agreement']:.1%}"
    )
