"""croissant.json: a set described in Croissant 1.0 (Akhtar et al. 2024, 2403.19546), which catalogues and loaders read.

Only a folder of images has one: the other formats bring a description of their own.
"""

import json
from typing import Any

from dpd_runtime.dataset.formats import Output
from dpd_runtime.generation.generate import Generation
from dpd_runtime.machine.versions import __version__
from dpd_runtime.text import counted

CROISSANT_NAME = "croissant.json"
FOLDER = "([^/]+)(?:/[^/]+)?$"
"""The class of an image by its path. It also takes what it gives: readers apply it twice."""
TERMS = (
    *("citeAs", "column", "conformsTo", "equivalentProperty", "extract", "field", "fileProperty", "fileObject"),
    *("fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
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
    "examples": {"@id": "cr:examples", "@type": "@json"},
}
"""Of the specification's own examples."""


def croissant(generation: Generation, output: Output, set_hash: str) -> str:
    """The content of croissant.json for a folder of images: each image's class, and each class's label."""
    bundle = generation.bundle
    classes = [{"classes/name": scene.name, "classes/label": scene.label} for scene in bundle.classes]
    of_files: dict[str, Any] = {"fileSet": {"@id": "files"}}
    content = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
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
