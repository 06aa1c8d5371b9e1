"""Every kind of hostile bundle, as one strategy: a name for the tally, and a function that stores it in a folder.

An attacker changes the tiny bundle and writes hashes that hold. The kinds:

- json values, json texts: any value in any place of the three tables; keys twice, depth, giant numbers, damage.
- tensor headers, values, bytes: headers that declare what is not there, other types and shapes, damage.
- graph bytes, models, wire: damaged protobuf; changed ONNX models; fields that parsers read differently, and the mark
  of ONNX Runtime's own format.
- classifiers: such graphs in the folder of a classifier, which labels an image.
- hostile graphs: wild indices, traps of the processor, strings, tensors of any size.
- zip bytes, entries, overlaps, hiding: numbers, names, links and methods; bytes that belong to two entries or to none,
  extra fields, comments, flags and counts.
- folders, sparse tensors: links, pipes, depth, strangers; files of holes, some with the right hash.
- listed sizes: sizes and hashes in the manifest that are none.
- trust lines: verdicts that audit.json does not give, texts that pretend, invisible letters, signatures of anybody.
- names: classes and files called like devices, options, unfinished files, or like each other.
- golden, guidance: labels, seeds, steps and entries out of range; headers and images by the million.
- sizes: images, bands, latents, candidates and calls within their limits that ask for much; format 4.
"""

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from tests.hostile.fuzz.archive_mutations import folders, hiding, overlapping, zip_bytes, zip_entries
from tests.hostile.fuzz.claim_mutations import golden, guidance, listed_sizes, names, sizes, sparse_tensors, trust_lines
from tests.hostile.fuzz.graph_mutations import classifier_graphs, graph_bytes, graph_models, graph_wire, hostile_graphs
from tests.hostile.fuzz.json_mutations import json_texts, json_values
from tests.hostile.fuzz.material import Files, Material, as_classifier, as_folder, as_zip
from tests.hostile.fuzz.tensor_mutations import tensor_bytes, tensor_headers, tensor_values

Hostile = tuple[str, Callable[[Path], Path]]


def _packed(kind: str, files: Files, as_one: bool) -> Hostile:
    return kind, lambda folder: (as_zip if as_one else as_folder)(folder, files)


def hostile(material: Material) -> st.SearchStrategy[Hostile]:
    """Whatever an attacker makes of the tiny bundle who writes the hashes too."""
    contents = {
        "json values": json_values(material).map(Material.sealed),
        "json texts": json_texts(material),
        "tensor headers": tensor_headers(material).map(Material.sealed),
        "tensor values": tensor_values(material).map(Material.sealed),
        "tensor bytes": tensor_bytes(material).map(Material.sealed),
        "graph bytes": graph_bytes(material).map(Material.sealed),
        "graph models": graph_models(material).map(Material.sealed),
        "listed sizes": listed_sizes(material),
        "trust lines": trust_lines(material),
        "names": names(material),
        "golden": golden(material),
        "guidance": guidance(material),
        "sizes": sizes(material),
        "graph wire": graph_wire(material).map(Material.sealed),
        "hostile graphs": hostile_graphs(material).map(Material.sealed),
    }
    containers = {
        "zip bytes": zip_bytes(material),
        "zip entries": zip_entries(material),
        "zip overlaps": overlapping(material),
        "zip hiding": hiding(material),
        "folders": folders(material),
        "sparse tensors": sparse_tensors(material),
    }
    classes = tuple(entry["name"] for entry in material.json_of("classes.json")["classes"])
    side = material.manifest["image_shape"][0]

    def classifier(graph: bytes) -> Hostile:
        return "classifiers", lambda folder: as_classifier(folder, graph, classes, side)

    made = [st.builds(_packed, st.just(kind), found, st.booleans()) for kind, found in contents.items()]
    stored = [st.tuples(st.just(kind), store) for kind, store in containers.items()]
    classifiers = [classifier_graphs(material).map(classifier)] if material.teacher else []
    return st.one_of([*made, made[0], made[-1], *stored, *classifiers])
