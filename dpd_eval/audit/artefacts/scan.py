"""Artefact scan: check that nothing of a single real image is in what leaves the site (docs/reference/privacy.md)."""

from collections import Counter
from collections.abc import Mapping

from dpd_eval.audit.artefacts.artefact import Artefact, Traces
from dpd_eval.audit.artefacts.latents import find_bytes, find_tensors
from dpd_eval.audit.artefacts.layout import check_layout, check_table
from dpd_eval.audit.artefacts.pictures import find_pictures
from dpd_eval.audit.artefacts.text import find_text
from dpd_eval.audit.outcome import Outcome

__all__ = ["Artefact", "Traces", "artefact_test", "scan"]
NAME = "artefact scan"


def scan(files: Mapping[str, bytes], traces: Traces, *, of_set: bool = False) -> list[Artefact]:
    """Scan files, given by path. A set may contain pictures and file names of its own."""
    artefacts = [] if of_set else check_layout(files) + check_table(files)
    for name, content in files.items():
        artefacts += find_text(name, content, traces, of_set=of_set)
        artefacts += find_pictures(name, content, of_set=of_set)
        artefacts += find_tensors(name, content, traces)
        artefacts += [] if of_set else find_bytes(name, content, traces)
    return artefacts


def artefact_test(findings: list[Artefact], files: int, traces: Traces) -> Outcome:
    """Return FAIL for any finding. The note becomes part of the bundle, so it names only the kind and the file."""
    if findings:
        kinds = Counter((finding.what, finding.file) for finding in findings)
        note = "; ".join(f"{what} in {file} ({count})" for (what, file), count in sorted(kinds.items())[:8])
        return Outcome(NAME, float(len(findings)), None, 0.0, "FAIL", note)
    looked = "names, paths, pictures and pixels" + ("" if traces.latents is None else ", latents")
    if traces.latents is None:
        return Outcome(
            NAME,
            0.0,
            None,
            0.0,
            "WARN",
            f"{files} files: {looked}; no latents (no encoder)",
        )
    return Outcome(NAME, 0.0, None, 0.0, "PASS", f"{files} files: {looked}")
