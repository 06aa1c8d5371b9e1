"""NumPy: one .npz file of arrays for `numpy.load`, without pickle."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from dpd_runtime.annotations import Array
from dpd_runtime.dataset.formats.format import Contents, Format, Sample, folder_name
from dpd_runtime.files import open_atomically

NAME = "set.npz"


def pack(samples: Iterator[Sample], out: Path, contents: Contents) -> list[str]:
    """Write set.npz.

    Its arrays are images uint8 [n, H, W, 3], labels int64 [n], index int32 [n], class_names str [C] and, with soft
    labels, soft_labels float32 [n, C]. Images of N bands are [n, H, W, N], with band_names str [N], wavelengths (µm)
    float32 [N], low and high float64 [N], the physical values that 0 and 255 stand for, and decibels bool [N]. The file
    equals that of `numpy.savez`, which needs all pixels in memory at once.
    """
    labels, indices, soft = [], [], []
    with open_atomically(out / NAME) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as entry:
            shape = (contents.images, *contents.side, len(contents.bands) or 3)
            npy.write_array_header_1_0(entry, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for sample in samples:
                entry.write(np.ascontiguousarray(sample.pixels).tobytes())
                labels.append(sample.record["label"])
                indices.append(sample.record["index"])
                if sample.soft_label is not None:
                    soft.append(sample.soft_label)
        arrays: dict[str, Array] = {
            "labels": np.array(labels, np.int64),
            "index": np.array(indices, np.int32),
            "class_names": np.array(contents.classes),
        }
        if contents.soft_labels:
            arrays["soft_labels"] = np.array(soft, np.float32)
        if contents.bands:
            arrays |= {
                "band_names": np.array([band.name for band in contents.bands]),
                "wavelengths": np.array([band.wavelength for band in contents.bands], np.float32),
                "low": np.array([band.low for band in contents.bands], np.float64),
                "high": np.array([band.high for band in contents.bands], np.float64),
                "decibels": np.array([band.decibels for band in contents.bands], np.bool_),
            }
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
    return [NAME]


NPZ = Format("npz", pack, re.compile(re.escape(NAME)), encodes=False, image_name=folder_name)
