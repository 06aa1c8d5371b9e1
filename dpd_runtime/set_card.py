"""What describes a set to people and tools: its card, and Croissant."""

import json
import re
from typing import Any

from dpd_runtime.bands import Band
from dpd_runtime.bundle import embedded_bundle
from dpd_runtime.engines import FP32
from dpd_runtime.formats import NAME as PARQUET_NAME
from dpd_runtime.formats import PLAIN, Output
from dpd_runtime.generation import Generation, sampler_settings
from dpd_runtime.manifest import Manifest
from dpd_runtime.set_state import METADATA_NAME
from dpd_runtime.text import counted, joined, option, option_words, shown
from dpd_runtime.versions import __version__

# -- The dataset card of a set: README.md, which people and Hugging Face `datasets` read, and classes.txt.
#
# Names and licences come from the bundle, whose author may be anybody: they are cut, and quoted for YAML and Markdown.


CARD_NAME = "README.md"
CLASSES_NAME = "classes.txt"
MOST_CLASSES = 1_000
LONGEST_QUOTE = 200  # letters
MOST_LICENCES = 20
LONGEST_COMMAND = 2_000
TAGS = ("dataset-distillation", "remote-sensing", "synthetic-data")
"""Of sets and bundles on the Hub."""
OTHER = "other"
HUB_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "openrail", "openrail++")
HUB_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B")
Feature = dict[str, Any]
"""A column as `datasets` writes it into the front matter of a card."""


def class_list(generation: Generation) -> str:
    """The content of classes.txt: all classes of the bundle. Line n, counted from 0, is the class with label n."""
    return "".join(f"{scene.name}\n" for scene in generation.bundle.classes)


def dataset_card(generation: Generation, output: Output, set_hash: str) -> str:
    """The content of README.md: YAML front matter, then text. Equal sets have equal cards."""
    bundle, manifest = generation.bundle, generation.bundle.manifest
    height, width, _ = manifest.image_shape
    count = f"{len(generation)}, {generation.ipc} of each of {counted(len(generation.classes), 'class')}"
    facts = {
        "Images": f"{count}, {width} × {height}{',' if manifest.bands else ''} {channels_of(manifest)}, {output.form}",
        "Bundle": f"{quoted(manifest.name)}, hash `{bundle.hash}`",
        "Signature": quoted(bundle.signature.describe()),
        "Audit": quoted(manifest.audit),
        "Seed": f"`{generation.seed}`",
        "Set hash": f"`{set_hash}`",
    }
    if manifest.bands:
        facts["Bands"] = "; ".join(map(_band_line, manifest.bands))
    if manifest.watchers:
        facts["Networks that watched beside the run's own, as the bundle claims"] = ", ".join(
            map(quoted, manifest.watchers)
        )
    if manifest.privacy is not None:
        facts["Privacy, as the bundle claims"] = quoted(manifest.privacy.describe())
    licences = list(manifest.licences.items())
    facts |= {f"Licence of {quoted(part)}": quoted(text) for part, text in licences[:MOST_LICENCES]}
    if len(licences) > MOST_LICENCES:
        facts["More licences"] = f"{len(licences) - MOST_LICENCES}, which `dpd info` shows"
    rows = [f"| {scene.label} | {quoted(scene.name)} | {generation.ipc} |" for scene in generation.classes]
    more = [f"\nAnd {len(rows) - MOST_CLASSES} more, listed in {CLASSES_NAME}."] if len(rows) > MOST_CLASSES else []
    lines = [
        *_front_matter(generation, output),
        "# Distilled training set",
        "",
        "The networks of a dpd bundle computed these images. They are meant for training classifiers.",
        "",
        *(f"- {name}: {text}" for name, text in facts.items()),
        "",
        "```sh",
        _command(generation, output),
        "```",
        "",
        "## Classes",
        "",
        f"Line n of {CLASSES_NAME}, counted from 0, names the class with label n. A set of some of the classes keeps "
        "these labels.",
        "",
        "| label | class | images |",
        "|---|---|---|",
        *rows[:MOST_CLASSES],
        *more,
    ]
    return "".join(f"{line}\n" for line in lines)


def channels_of(manifest: Manifest) -> str:
    """What the channels are: RGB, or a number of bands."""
    return counted(len(manifest.bands), "band") if manifest.bands else "RGB"


def _band_line(band: Band) -> str:
    """Name, centre wavelength and limits of a band."""
    unit = " dB" if band.decibels else ""
    centre = f" at {band.wavelength:g} µm" if band.wavelength else ""
    physical = f" ({quoted(band.unit)})" if band.unit else ""
    return f"{quoted(band.name)}{centre}, {band.low:g} to {band.high:g}{unit}{physical}"


def _front_matter(generation: Generation, output: Output) -> list[str]:
    """YAML whose values are JSON, which is YAML too. `datasets` takes the columns of image folders from `configs`."""
    lines = ["---", f"license: {hub_licence(generation.bundle.manifest)}", "task_categories: [image-classification]"]
    lines += [f"size_categories: [{_size_category(len(generation))}]", f"tags: [{', '.join(TAGS)}]"]
    paths = {
        "imagefolder": [f"*/*{output.encoding.suffix}", METADATA_NAME],
        "webdataset": ["shard-*.tar"],
        "parquet": [PARQUET_NAME],
    }.get(output.format)
    if paths is not None and not output.bands:  # no loader of image folders reads float32 bands
        lines += ["configs:", "- config_name: default"]
        lines.append(f"  data_files: {json.dumps([{'split': 'train', 'path': paths}], allow_nan=False)}")
        features = [
            f"  - {json.dumps(feature, ensure_ascii=False, allow_nan=False)}"
            for feature in _features(generation, output)
        ]
        if output.format == "imagefolder":
            lines += ["  features: &features", *features, "dataset_info:", "  features: *features"]
        else:
            lines += ["dataset_info:", "  features:", *features]
    return [*lines, "---", ""]


def hub_licence(manifest: Manifest) -> str:
    """The Hub's name of the licence of base and data, if they have one and the same; else `other`: see the text."""
    base, data = (manifest.licences.get(part, "").lower() for part in ("base", "data"))
    return base if base == data and base in HUB_LICENCES else OTHER


def _size_category(images: int) -> str:
    """The Hub's name for a number of images, such as 1K<n<10K."""
    if images < 1_000:
        return "n<1K"
    digits = len(str(images))
    return f"{HUB_SIZES[digits - 4]}<n<{HUB_SIZES[digits - 3]}"


def _features(generation: Generation, output: Output) -> list[Feature]:
    """The columns that the `datasets` builder of a format makes."""
    names = [scene.name for scene in generation.bundle.classes]
    table = {"class_label": {"names": {str(label): name for label, name in enumerate(names)}}}
    label: Any = table if len(names) <= MOST_CLASSES else "int64"
    plain: list[Feature] = [{"name": name, "dtype": kind} for name, kind in PLAIN.items()]
    record = [{"name": "class", "dtype": "string"}, *plain, {"name": "pixels_sha256", "dtype": "string"}]
    soft: Feature = {"list": "float32"} if output.format == "webdataset" else {"list": "float32", "length": len(names)}
    if output.format == "webdataset":
        inner = [{"name": "file_name", "dtype": "string"}, {"name": "label", "dtype": "int64"}, *record]
        ends = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]
        return [
            {"name": output.encoding.suffix.removeprefix("."), "dtype": "image"},
            {"name": "cls", "dtype": label},
            {"name": "json", "struct": inner},
            *([{"name": "soft_labels.npy", **soft}] if output.soft_labels else []),
            *ends,
        ]
    first = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": label}]
    if output.format == "parquet":
        return [*first, *plain, *([{"name": "soft_labels", **soft}] if output.soft_labels else [])]
    return [*first, *record, *([] if output.direct else [{"name": "file_sha256", "dtype": "string"}])]


def config_of(generation: Generation, output: Output) -> dict[str, Any] | None:
    """The options of `dpd generate` that make the set again; None for a sampler that no option gives."""
    bundle, provider = generation.bundle, generation.provider
    some, usual = len(generation.classes) < len(bundle.classes), bundle.manifest.sampler
    sampling = sampler_settings(usual, generation.sampler)
    if generation.sampler != usual and not sampling:
        return None
    return {
        "ipc": generation.ipc,
        "seed": generation.seed,
        **({"classes": [scene.name for scene in generation.classes]} if some else {}),
        **sampling,
        "provider": provider.name,
        **({"precision": provider.precision} if provider.precision != FP32 else {}),
        **({"device": provider.gpu} if provider.name == "openvino" and provider.gpu is not None else {}),
        **({"format": output.format} if output.format != Output.format else {}),
        **({"image_format": output.image_format} if output.image_format is not None else {}),
        **({"soft_labels": True} if output.soft_labels else {}),
    }


def _command(generation: Generation, output: Output) -> str:
    """A command that makes the set, without its folder, for a POSIX shell."""
    bundle, config = generation.bundle, config_of(generation, output)
    if config is None:
        return "dpd generate   # with a sampler that no option gives"
    words = ["dpd", "generate", *([] if bundle.path == embedded_bundle() else [f"./{bundle.manifest.name}.dpd"])]
    words += [word for name in ("ipc", "seed") for word in (option(name), str(config.pop(name)))]
    if "classes" in config:
        words.append(f"--classes={joined(config.pop('classes'))}")  # with =, as a name may begin with a hyphen
    command = shown(words, option_words(config))
    return command if len(command) <= LONGEST_COMMAND else "dpd generate   # with options that are too long for here"


def quoted(text: str) -> str:
    """The text as code in Markdown, where no letter has a meaning; at most LONGEST_QUOTE letters of it."""
    short = text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"
    fence = "`" * (1 + max(map(len, re.findall("`+", short)), default=0))
    space = " " if len(fence) > 1 or not short.strip() else ""
    return f"{fence}{space}{short or '-'}{space}{fence}"


# -- croissant.json: a set described in the words of Croissant 1.1 (Akhtar et al. 2024, 2403.19546, is about 1.0), which
# catalogues and loaders read.
#
# Only a folder of images has one: the other formats bring a description of their own. Where, by whom and when a set is
# published (url, creator, datePublished), which the specification asks for, nobody knows when it is made.


CROISSANT_NAME = "croissant.json"
FOLDER = "([^/]+)(?:/[^/]+)?$"
"""The class of an image by its path. It also takes what it gives: readers apply it twice."""
TERMS = (
    *("arrayShape", "citeAs", "column", "conformsTo", "containedIn", "equivalentProperty", "extract", "field"),
    *("fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key"),
    *("md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
    *("separator", "source", "subField", "transform"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    **{term: f"cr:{term}" for term in TERMS},
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
}
"""Of what mlcroissant, the reference implementation, writes."""


def croissant(generation: Generation, output: Output, set_hash: str) -> str:
    """The content of croissant.json for a folder of images: each image's class, and each class's label."""
    bundle = generation.bundle
    classes = [{"classes/name": scene.name, "classes/label": scene.label} for scene in bundle.classes]
    of_files: dict[str, Any] = {"fileSet": {"@id": "files"}}
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": bundle.manifest.name,
        "description": f"Distilled training set of {counted(len(generation), 'image')}, {generation.ipc} of each "
        "class, generated "
        f"by dpd {__version__} from the bundle {bundle.hash} with seed {generation.seed}. Set hash {set_hash}.",
        "license": [f"{part}: {text}" for part, text in bundle.manifest.licences.items()] or ["unknown"],
        "version": "1.0.0",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": "files",
                "name": "files",
                "encodingFormat": f"image/{output.encoding.name}",
                "includes": f"*/*{output.encoding.suffix}",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "classes",
                "name": "classes",
                "key": {"@id": "classes/name"},
                "field": [_field("classes/name", "sc:Text"), _field("classes/label", "sc:Integer")],
                "data": classes,
            },
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "field": [
                    _field("images/image", "sc:ImageObject", of_files | {"extract": {"fileProperty": "content"}}),
                    _field(
                        "images/class",
                        "sc:Text",
                        of_files | {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": FOLDER}},
                    )
                    | {"references": {"field": {"@id": "classes/name"}}},
                ],
            },
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _field(name: str, kind: str, source: dict[str, Any] | None = None) -> dict[str, Any]:
    made = {"@type": "cr:Field", "@id": name, "name": name.partition("/")[2], "dataType": kind}
    return made if source is None else made | {"source": source}
