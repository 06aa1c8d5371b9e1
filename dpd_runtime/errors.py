"""What can go wrong, as a small family: each error owns its sentence and the command line's exit code (DESIGN §9)."""

from pathlib import Path


class DpdError(Exception):
    """Base of every error that dpd raises on purpose. The message is one line for the user."""

    exit_code = 1


class InputError(DpdError, ValueError):
    """Bad input or usage: the caller can mend it."""

    exit_code = 2


class DataError(InputError):
    """Image data which cannot be used: missing, empty, one class only, too few images."""


class OutputFolderError(InputError):
    """An output folder that holds something which this command did not write."""

    def __init__(self, folder: Path, reason: str, *, removable: bool = False) -> None:
        hint = ", or pass --overwrite to replace it" if removable else ""
        super().__init__(f"{folder}: {reason}; choose another --out{hint}")


class BundleError(DpdError, ValueError):
    """A bundle that is corrupt, truncated, tampered with or from the future. Nothing of it is used."""

    exit_code = 3


class BundleHashError(BundleError):
    """A file whose bytes are not the ones that the manifest lists."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        super().__init__(
            f"{path}: sha256 is {found[:12]}…, bundle.json says {expected[:12]}…; "
            "the bundle was changed or damaged: fetch or export it again"
        )


class BundleSizeError(BundleError):
    """A file of another length than the manifest lists."""

    def __init__(self, path: str, found: int, expected: int) -> None:
        super().__init__(
            f"{path}: {found} bytes, bundle.json says {expected}; "
            "the bundle was changed or damaged: fetch or export it again"
        )


class BundleVersionError(BundleError):
    """A bundle which needs a newer runtime."""


class SignatureError(BundleError):
    """A signature that is broken, or that does not hold though its key is trusted."""


class DecryptionError(BundleError):
    """An encrypted bundle that does not open: no key, a wrong one, or changed bytes."""


class RequirementError(BundleError):
    """A bundle that is not signed or audited as the caller demands."""


class CheckError(DpdError, AssertionError):
    """A requested check does not hold: parity, golden replay, --expect."""


class AuditError(DpdError, AssertionError):
    """An audit whose verdict is FAIL."""

    exit_code = 4

    def __init__(self, failed: list[str], broken: list[str]) -> None:
        """Args: failed: names of tests. broken: names of controls that did not come out."""
        said = [f"{len(failed)} of its tests: {failed[0]}"] if failed else []
        said += [f"{len(broken)} of its controls: {broken[0]}"] if broken else []
        advice = "do not let it leave" if failed else "nothing is proved by it"
        super().__init__(f"audit verdict FAIL, {' and '.join(said)}; {advice}; docs/privacy.md says what helps")


class ParityError(CheckError):
    """An exported graph which is further from PyTorch than DESIGN §10 allows."""


class SetHashError(CheckError):
    """A distilled set whose hash is not the expected one."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(
            f"set hash is {found}, --expect says {expected}: another bundle, seed, sampler, provider or machine type"
        )


class DegenerateImageError(DpdError, ArithmeticError):
    """NaN or constant pixels, which are never written."""


class MissingExtraError(DpdError, ImportError):
    """A backend that is not installed."""

    exit_code = 5

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "dpd-distill[{extra}]"')


class ProviderError(DpdError, RuntimeError):
    """An execution provider which was asked for and does not work here."""

    exit_code = 5


class MemoryShortError(ProviderError, MemoryError):
    """A call of a graph that does not fit into the memory which this process or its device may use."""


class DiskError(DpdError, OSError):
    """The disk is full, read-only or gone; what was finished stays and can be resumed."""

    exit_code = 5
