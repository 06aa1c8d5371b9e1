"""Every kind of hostile bundle, as one strategy: a name for the tally, and a function that stores it in a folder."""

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.archive_mutations import folders, hiding, overlapping, zip_bytes, zip_entries
from tests.fuzz.graph_mutations import graph_bytes, graph_models, graph_wire
from tests.fuzz.json_mutations import json_texts, json_values
from tests.fuzz.material import Files, Material, as_folder, as_zip
from tests.fuzz.tensor_mutations import tensor_bytes, tensor_headers, tensor_values

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
        "graph wire": graph_wire(material).map(Material.sealed),
    }
    containers = {
        "zip bytes": zip_bytes(material),
        "zip entries": zip_entries(material),
        "zip overlaps": overlapping(material),
        "zip hiding": hiding(material),
        "folders": folders(material),
    }
    made = [st.builds(_packed, st.just(kind), found, st.booleans()) for kind, found in contents.items()]
    stored = [st.tuples(st.just(kind), store) for kind, store in containers.items()]
    return st.one_of([*made, made[0], made[-1], *stored])
