"""Parquet: one file in the layout of Hugging Face `datasets`, which reads images as Image and labels as ClassLabel.

The feature types are in the schema's metadata under `huggingface`. Other readers see a struct of bytes and path.
"""

import json
import re
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from dpd_runtime.dataset.formats.format import Contents, Format, Sample, folder_name
from dpd_runtime.errors import MissingExtraError
from dpd_runtime.files import open_atomically

NAME = "set.parquet"
ROW_GROUP = 100  # images in memory at a time, or fewer that have MOST_BYTES together
MOST_BYTES = 2**28
PLAIN = {
    "index": "int32",
    "prototype": "int32",
    "prompt": "string",
    "candidate": "int32",
    "margin": "float32",
    "seed": "uint64",
}


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet") from error
    return pyarrow


def _check() -> None:
    _pyarrow()


def _schema(pyarrow: Any, contents: Contents) -> Any:
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = [("image", image), ("label", pyarrow.int64())]
    columns += [(name, getattr(pyarrow, kind)()) for name, kind in PLAIN.items()]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    features["label"] = {"names": list(contents.classes), "_type": "ClassLabel"}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in PLAIN.items()}
    if contents.soft_labels:
        count = len(contents.classes)
        columns.append(("soft_labels", pyarrow.list_(pyarrow.float32(), count)))
        # all versions of datasets read "Sequence"; new ones turn it into List
        features["soft_labels"] = {
            "feature": {"dtype": "float32", "_type": "Value"},
            "length": count,
            "_type": "Sequence",
        }
    return pyarrow.schema(
        columns, metadata={"huggingface": json.dumps({"info": {"features": features}}, allow_nan=False)}
    )


def _row(sample: Sample, contents: Contents) -> dict[str, Any]:
    record = sample.record
    row: dict[str, Any] = {name: record[name] for name in PLAIN}
    row["image"] = {"bytes": contents.encoding.encode(sample.pixels), "path": record["file_name"].rpartition("/")[2]}
    row["label"] = record["label"]
    if sample.soft_label is not None:
        row["soft_labels"] = sample.soft_label
    return row


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write set.parquet with ROW_GROUP images in each row group, fewer of large images."""
    pyarrow = _pyarrow()
    schema = _schema(pyarrow, contents)
    count = max(1, min(ROW_GROUP, MOST_BYTES // (3 * prod(contents.side))))
    with open_atomically(out / NAME) as handle, pyarrow.parquet.ParquetWriter(handle, schema) as writer:
        while rows := [_row(sample, contents) for sample in islice(samples, count)]:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    return [NAME]


PARQUET = Format("parquet", pack, re.compile(re.escape(NAME)), encodes=True, image_name=folder_name, check=_check)
