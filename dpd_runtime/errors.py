"""The errors of dpd. Each class has an exit code of the command line."""

from collections.abc import Sequence
from pathlib import Path


class DpdError(Exception):
    """Base of every error that dpd raises on purpose. The message is one line for the user."""

    exit_code = 1


class InputError(DpdError, ValueError):
    """Bad input or usage, which the caller can correct."""

    exit_code = 2


class DataError(InputError):
    """Image data that cannot be used: missing, empty, only one class, too few images."""


class OutputFolderError(InputError):
    """An output folder that holds something that this command did not write."""

    def __init__(self, folder: Path, reason: str, *, removable: bool = False) -> None:
        hint = ", or pass --overwrite to replace it" if removable else ""
        super().__init__(f"{folder}: {reason}; choose another --out{hint}")


class OutputLinkError(InputError):
    """A link or special file below an output folder. Writing to it would change files outside."""

    def __init__(self, path: Path, kind: str = "a symbolic link") -> None:
        super().__init__(
            f"{path}: is {kind}; dpd writes to plain files and folders only: delete it or choose another --out"
        )


class BundleError(DpdError, ValueError):
    """A bundle that is damaged, changed or too new. No part of it is used."""

    exit_code = 3


class NoBundleError(BundleError):
    """There is no bundle at this path. The caller can correct it, as other bad input."""

    exit_code = 2

    def __init__(self, path: Path) -> None:
        if path.exists():
            super().__init__(f"{path}: a pipe or device cannot be read as a bundle; save it to a file first")
        else:
            super().__init__(f"{path}: no such bundle; give a .dpd file or a bundle folder")


class BundleHashError(BundleError):
    """A file whose hash differs from the manifest's."""

    def __init__(self, path: str, digest: str, expected: str) -> None:
        super().__init__(
            f"{path}: sha256 is {digest[:12]}…, bundle.json says {expected[:12]}…; "
            "the bundle was changed or damaged: fetch or export it again"
        )


class BundleSizeError(BundleError):
    """A file whose size differs from the manifest's."""

    def __init__(self, path: str, size: int, expected: int) -> None:
        super().__init__(
            f"{path}: {size} bytes, bundle.json says {expected}; "
            "the bundle was changed or damaged: fetch or export it again"
        )


class BundleVersionError(BundleError):
    """A bundle that needs a newer runtime."""


class ModelError(BundleError):
    """A classifier that is damaged, changed or too new. No part of it is used."""


class SignatureError(BundleError):
    """A damaged signature, or one by a trusted key that does not match the bundle."""


class DecryptionError(BundleError):
    """An encrypted bundle that cannot be opened: no key, a wrong key, or changed bytes."""


class OldBundleError(BundleError):
    """A bundle that has expired, or is older than another one of its name that this site has seen."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}; fetch the newest one, or use this one all the same, with --allow-older of "
            "dpd generate, info and verify"
        )


class RequirementError(BundleError):
    """A bundle that is not signed or audited as the caller requires."""


class CheckError(DpdError, AssertionError):
    """A requested check failed: parity, golden replay, --expect."""


class AuditError(DpdError, AssertionError):
    """An audit with the verdict FAIL."""

    exit_code = 4

    def __init__(self, failed: list[str], broken: list[str]) -> None:
        """Args: failed: names of the failed tests. broken: names of the controls without the expected result."""
        said = [f"{len(failed)} of its tests: {failed[0]}"] if failed else []
        said += [f"{len(broken)} of its controls: {broken[0]}"] if broken else []
        advice = "do not share it" if failed else "the audit proves nothing"
        super().__init__(
            f"audit verdict FAIL, {' and '.join(said)}; {advice}; the page Privacy of the documentation has remedies"
        )


class ParityError(CheckError):
    """An exported graph that differs from PyTorch by more than docs/reference/graphs.md allows."""


class SetHashError(CheckError):
    """A distilled set with another hash than expected."""

    def __init__(self, set_hash: str, expected: str) -> None:
        super().__init__(
            f"set hash is {set_hash}, --expect is {expected}: "
            "the bundle, seed, sampler, provider or machine type differs"
        )


class DegenerateImageError(DpdError, ArithmeticError):
    """NaN or constant pixels. They are never written."""


class MissingExtraError(DpdError, ImportError):
    """Packages that are not installed. The message has the one line that installs all of them.

    Args:
        packages: one, or all that are missing. extras: that bring them, such as "train,cpu".
    """

    exit_code = 5

    def __init__(self, packages: str | Sequence[str], extras: str) -> None:
        from dpd_runtime.installation import before_it, install_command  # here, as --help imports this module

        names = [packages] if isinstance(packages, str) else list(packages)
        verb = "is" if len(names) == 1 else "are"
        super().__init__(f"{', '.join(names)} {verb} not installed: {install_command(extras)}{before_it(names)}")


class ProviderError(DpdError, RuntimeError):
    """An execution provider that was requested and does not work here."""

    exit_code = 5


class EnginesError(ProviderError):
    """Engines that were asked for beside a bundle and could not be built. The bundle is complete without them."""


class MemoryShortError(ProviderError, MemoryError):
    """A bundle or a call of a graph that needs more memory than this process or its device has."""


class DiskError(DpdError, OSError):
    """A folder that cannot be written, or a disk that is full or gone. Finished work is kept and can be continued."""

    exit_code = 5
