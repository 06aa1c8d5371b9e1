"""Write the report: read the inputs, render the page, save one HTML file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dpd_eval.report.inputs import read_inputs
from dpd_eval.report.page import render
from dpd_runtime.bundle.signature import PublicKey
from dpd_runtime.errors import DiskError, InputError
from dpd_runtime.files import check_writable, write_atomically


@dataclass(frozen=True)
class Report:
    """What was written. sections: anchors of the page, in order."""

    out: Path
    bytes: int
    sections: tuple[str, ...]


def write_report(paths: Sequence[Path], out: Path, trusted: Sequence[PublicKey] | None = None) -> Report:
    """Read every path and write the page. Equal inputs give equal bytes. Nothing in a run's private/ is opened.

    Args:
        paths: JSON files of evaluations, audits or timings, folders of distilled sets, bundles, run folders.
        out: the HTML file; an existing file is replaced.
        trusted: keys whose signatures of bundles count; None for those in the user's trusted folder.

    Raises:
        InputError: a path that dpd did not write, damaged content, keys without a bundle, an `out` that is a folder or
            one of the inputs.
        BundleError: a bundle that does not verify.
        DiskError: `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of an HTML file")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; create it first")
    if out.resolve() in [path.resolve() for path in paths]:
        raise InputError(f"--out {out}: is one of the inputs; choose another name")
    check_writable(out)
    page, sections = render(read_inputs(paths, trusted))
    content = page.encode()
    try:
        write_atomically(out, content)
    except OSError as error:
        raise DiskError(f"--out {out}: cannot be written ({error.strerror}); choose another place") from None
    return Report(out, len(content), sections)
