"""Models on this machine, named by a hub id or a folder: nothing is fetched and no pickle is opened."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded
from dpd_train.config import HUB

if TYPE_CHECKING:
    import torch

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
# Files that decide a model's output: weights, sizes, pre-processing, tokenizer, chat template.
DECISIVE = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})


def find_model(source: str) -> tuple[Path, str]:
    """The folder of a transformers model with all its weights as safetensors, and its model type.

    transformers gets only folders: given an id, it asks the hub for an adapter in spite of `local_files_only`.

    Args:
        source: a folder (`~` is the home folder), or the id of a repository in the local hub cache.

    Raises:
        InputError: it is neither (the message has the command that fetches an id), or the folder has no config.json, is
            an adapter, or lacks weights or has them as a pickle.
    """
    folder = _folder(source)
    return folder, _model_type(folder, source)


def _folder(source: str) -> Path:
    folder = expanded(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{source}: is a file; give the folder of the model, or its id on the hub")
    from huggingface_hub.errors import HFValidationError

    try:
        return cached_snapshot(source)
    except HFValidationError:
        raise InputError(f"{source}: no such folder; give the folder of a model, or its id on the hub") from None
    except (OSError, ValueError):
        raise InputError(
            f"{source}: no such folder, and no model of that id on this machine; fetch it once: {fetch_command(source)}"
        ) from None


def public_name(source: str) -> str:
    """hf: and the id of a model or the last part of its folder, for records, which hold no local paths."""
    folder = expanded(source)
    return HUB + (folder.resolve().name if folder.is_dir() else source)


def cached_snapshot(source: str) -> Path:
    """The folder of a repository in the local hub cache; nothing is fetched.

    Raises:
        HFValidationError: `source` is not an id.
        OSError, ValueError: the repository is not in the cache, or incomplete.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, local_files_only=True))


def fetch_command(source: str) -> str:
    """The command that fetches the model `source` into the local hub cache."""
    from huggingface_hub import constants

    online = "HF_HUB_OFFLINE=0 " if constants.HF_HUB_OFFLINE else ""
    return f"{online}hf download {source}"


def _model_type(folder: Path, source: str) -> str:
    again = "complete the folder" if expanded(source).is_dir() else f"fetch it again: {fetch_command(source)}"
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, of_timm = config.get("model_type"), "architecture" in config
    except (OSError, ValueError, AttributeError):
        kind, of_timm = None, False
    if kind is None and of_timm:
        raise InputError(f"{source}: is a model of timm; take one of transformers")
    if kind is None:
        raise InputError(f"{source}: its config.json is missing or names no model_type; {again}")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{source}: is an adapter for another model; merge the two and give the merged folder")
    absent = [name for name in _weight_files(folder) if not (folder / name).is_file()]
    if absent and any(folder.glob("*.bin")):
        raise InputError(f"{source}: its weights are a pickle; only safetensors are opened: take a model that has them")
    if absent:
        raise InputError(f"{source}: {absent[0]} is missing; {again}")
    return str(kind)


def image_processor(what: str, folder: Path) -> Any:
    """The image processor of a model that resizes by PIL, also where torchvision is installed, which resizes otherwise.

    Args:
        what: it is for, in messages.

    Raises:
        InputError: as `opened`.
    """
    from importlib.util import find_spec

    from transformers import AutoImageProcessor

    # transformers 5 calls it a backend; before, unknown names were ignored
    by_pil = {"backend": "pil"} if find_spec("transformers.image_processing_backends") else {"use_fast": False}
    local: dict[str, Any] = {**by_pil, "local_files_only": True, "trust_remote_code": False}
    return opened(what, lambda: AutoImageProcessor.from_pretrained(folder, **local))


def check_tokenizer(folder: Path, source: str) -> None:
    """Check that the folder has a tokenizer; transformers 5 makes an empty one if its files are missing.

    Raises:
        InputError: no file with a vocabulary.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{source}: has no tokenizer ({', '.join(VOCABULARIES)}); complete the folder")


def model_hash(folder: Path) -> str:
    """sha256 over names and contents of the files in the folder that decide the model's output; 1 s for 1 GB."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in DECISIVE and path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def opened(what: str, load: Callable[[], Any]) -> Any:
    """Call `load` and return its result.

    Args:
        what: name of the model, for messages.

    Raises:
        InputError: it failed in any way; transformers may raise almost any type.
    """
    try:
        return load()
    except Exception as error:
        way_out = "install that" if isinstance(error, ImportError) else "take another model"
        raise InputError(f"{what}: cannot be loaded ({first_sentence(error)}); {way_out}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' report of tensors that a model leaves unused from standard error."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def partial_model(
    what: str, model_class: Any, folder: Path, dtype: "torch.dtype", **options: Any
) -> tuple[Any, list[str]]:
    """A transformers model from safetensors, and the names of the tensors that its checkpoint lacks: these are random.

    Raises:
        InputError: it cannot be loaded.
    """
    options |= {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    with quiet():
        model, report = opened(
            what, lambda: model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
        )
    return model, sorted(report["missing_keys"])


def refuse_random(what: str, missing: list[str]) -> None:
    """Raise an InputError if tensors that are used are missing."""
    if missing:
        raise InputError(f"{what}: its weights lack {len(missing)} tensors, first {missing[0]}; take another model")


def complete_model(what: str, model_class: Any, folder: Path, dtype: "torch.dtype", device: "torch.device") -> Any:
    """A transformers model from safetensors, in evaluation mode.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks tensors.
    """
    model, missing = partial_model(what, model_class, folder, dtype)
    refuse_random(what, missing)
    return model.to(device).eval()


def image_model(what: str, folder: Path) -> tuple[Any, bool]:
    """A transformers model of images in evaluation mode, and whether its pooling layer was in the checkpoint.

    Of a model for images and texts (CLIP) it is the part that sees images.

    Raises:
        InputError: it cannot be loaded, or its checkpoint lacks tensors of other layers than the pooling one.
    """
    import torch
    from transformers import AutoModel

    model, missing = partial_model(what, AutoModel, folder, torch.float32)
    refuse_random(what, [name for name in missing if "pooler" not in name])
    return getattr(model, "vision_model", model).eval(), not missing


def first_sentence(error: Exception) -> str:
    """The first sentence of an error's message, 200 letters at most."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200] or type(error).__name__


def _weight_files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ["model.safetensors"]
