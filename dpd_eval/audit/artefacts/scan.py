"""Artefact scan: check that nothing of a single real image is in what leaves the site (docs/reference/privacy.md)."""

from collections import Counter
from collections.abc import Mapping

from dpd_eval.audit.artefacts.artefact import Artefact, Traces
from dpd_eval.audit.artefacts.latents import find_bytes, find_tensors
from dpd_eval.audit.artefacts.layout import check_layout, check_table
from dpd_eval.audit.artefacts.pictures import find_pictures
from dpd_eval.audit.artefacts.text import find_text
from dpd_eval.audit.outcome import Outcome
from dpd_runtime.images.folders import SHEET_NAME
from dpd_runtime.images.pictures import SUFFIXES
from dpd_runtime.text import counted

__all__ = ["Artefact", "Traces", "artefact_test", "scan"]
NAME = "artefact scan"


def scan(files: Mapping[str, bytes], traces: Traces, *, of_set: bool = False) -> list[Artefact]:
    """Scan files, given by path. A set may contain file names of its own, and pictures in its class folders: those are
    compared with the real images by other tests."""
    artefacts = [] if of_set else check_layout(files) + check_table(files)
    for name, content in files.items():
        artefacts += find_text(name, content, traces, of_set=of_set)
        artefacts += find_pictures(name, content, of_set=of_set)
        artefacts += find_tensors(name, content, traces)
        if not (of_set and name.lower().endswith(tuple(SUFFIXES))):
            artefacts += find_bytes(name, content, traces)
        elif "/" not in name and name != SHEET_NAME:
            artefacts.append(Artefact(name, "a picture outside the class folders", ""))
    return artefacts


def artefact_test(findings: list[Artefact], files: int, traces: Traces) -> Outcome:
    """Return FAIL for any finding. The note becomes part of the bundle, so it names only the kind and the file."""
    if findings:
        kinds = Counter((finding.what, finding.file) for finding in findings)
        note = "; ".join(f"{what} in {file} ({count})" for (what, file), count in sorted(kinds.items())[:8])
        return Outcome(NAME, float(len(findings)), None, 0.0, "FAIL", note)
    looked = "names, paths, pictures, pixels" + ("; no latents (no encoder)" if traces.latents is None else ", latents")
    return Outcome(
        NAME, 0.0, None, 0.0, "WARN" if traces.latents is None else "PASS", f"{counted(files, 'file')}: {looked}"
    )
