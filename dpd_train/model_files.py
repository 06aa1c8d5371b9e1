"""Models on this machine, named by a hub id or a folder: nothing is fetched and no pickle is opened."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpd_runtime.errors import InputError
from dpd_runtime.files import expanded, spare_cache
from dpd_train.config import HUB

if TYPE_CHECKING:
    import torch

NETWORKS = "DPD_NETWORKS"
TIMM, OF_TIMM = "timm_wrapper", "pretrained_cfg"  # model type in transformers; what timm's own config has
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
CONFIG_BYTES = 1 << 24
FETCHED_NETWORKS = "efficientnet-lite"  # how the names of those begin that dpd data fetch gets
CARD_NAME = "README.md"
PROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
CARD_BYTES, MOST_LICENCE = 1 << 16, 80  # of a model card that are read; letters of a licence's name
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
# Files that decide a model's output: weights, sizes, pre-processing, tokenizer, chat template.
DECISIVE = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model"})


def networks_folder() -> Path | None:
    """DPD_NETWORKS, or dpd/networks in the user's cache; None where the variable is empty or there is no home folder.

    A model in it can be named by its folder's name alone.
    """
    named = os.environ.get(NETWORKS)
    if named is None:
        return spare_cache("networks")
    return expanded(named) if named else None


def read_config(folder: Path, name: str = CONFIG_NAME) -> dict[str, Any]:
    """The content of a model's config.json, or of another of its files of JSON; empty where none can be read."""
    try:
        with (folder / name).open("rb") as file:
            content = json.loads(file.read(CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_of_timm(config: Mapping[str, Any]) -> bool:
    """Whether a model's config is one of timm, which transformers wraps."""
    return isinstance(config.get(OF_TIMM), dict) and config.get("model_type", TIMM) == TIMM


def bytes_of_weights(folder: Path) -> int:
    """Of a model's files of safetensors; links to what has gone count nothing."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())


def licence_of(folder: Path) -> str | None:
    """The licence that a model's card names in the lines before its text, or a config of timm; None without either.

    Where the card names several, or a name beside "other", they are joined by commas.
    """
    try:
        with (folder / CARD_NAME).open(encoding="utf-8", errors="replace") as card:
            text = card.read(CARD_BYTES)
    except OSError:
        text = ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    entries = re.findall(r"^license(?:_name)?:(.*(?:\n *-.*)*)", head, re.M)
    said = [part for entry in entries for part in _words(entry)]
    config = read_config(folder)
    if not said and is_of_timm(config):
        said = _words(str(config[OF_TIMM].get("license", ""))[:MOST_LICENCE])
    return ",".join(said)[:MOST_LICENCE] or None


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", text)


def find_model(source: str) -> tuple[Path, str]:
    """The folder of a transformers model with all its weights as safetensors, and its model type.

    transformers gets only folders: given an id, it asks the hub for an adapter in spite of `local_files_only`.

    Args:
        source: a folder (`~` is the home folder), the name of one in `networks_folder`, or the id of a repository in
            the local hub cache.

    Raises:
        InputError: it is none (the message has the command that fetches an id), or the folder has no config.json, is
            an adapter or a model of timm where that is not installed, or lacks weights or has them as a pickle.
    """
    folder = _folder(source)
    own = expanded(source).is_dir() or _network_called(source) is not None
    again = "complete the folder" if own else f"fetch it again: {fetch_command(source)}"
    return folder, check_model(folder, source, again)


def _folder(source: str) -> Path:
    folder, named = expanded(source), _network_called(source)
    if named is not None and folder.is_dir() and not folder.samefile(named):
        raise InputError(f"{source}: is a folder here and a network in {named.parent}; give ./{source} or {named}")
    if named is not None:
        return named
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
        if source.startswith(FETCHED_NETWORKS):
            raise InputError(f"{source}: is not on this machine; get it: dpd data fetch {source}") from None
        raise InputError(
            f"{source}: no such folder, and no model of that id on this machine; fetch it once: {fetch_command(source)}"
        ) from None


def _network_called(name: str) -> Path | None:
    """The folder of that name in `networks_folder`; None where it has none, and for paths and ids."""
    networks = networks_folder()
    if networks is None or Path(name).name != name or name in ("", ".", ".."):
        return None
    return networks / name if (networks / name).is_dir() else None


def public_name(source: str) -> str:
    """hf: and the id of a model or the last part of its folder, for records, which hold no local paths."""
    folder = expanded(source)
    own = _network_called(source) is None and folder.is_dir()
    return HUB + (folder.resolve().name if own else source)


def cached_snapshot(source: str) -> Path:
    """The folder of a repository in the local hub cache; nothing is fetched.

    Files may be missing, as not all of a repository are needed: who opens it checks its own.

    Raises:
        HFValidationError: `source` is not an id.
        OSError, ValueError: the repository is not in the cache.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, local_files_only=True))
    except (OSError, ValueError) as error:
        partial = getattr(error, "snapshot_path", None)
        if partial is None:
            raise
        return Path(partial)


def fetch_command(source: str) -> str:
    """The command that fetches the model `source` into the local hub cache."""
    from huggingface_hub import constants

    online = "HF_HUB_OFFLINE=0 " if constants.HF_HUB_OFFLINE else ""
    return f"{online}hf download {source}"


def check_model(folder: Path, source: str, again: str) -> str:
    """Check the files of a model, and return its model type.

    Args:
        source: names it in messages. again: how its folder is completed.

    Raises:
        InputError: as `find_model` of the folder.
    """
    config = read_config(folder)
    of_timm = is_of_timm(config)
    if of_timm and find_spec("timm") is None:
        raise InputError(f"{source}: is a model of timm, which is not installed; pip install timm")
    if of_timm:
        _check_of_timm(config, source)
    kind = TIMM if of_timm else config.get("model_type")
    if kind is None:
        raise InputError(f"{source}: its {CONFIG_NAME} is missing or names no model_type; {again}")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{source}: is an adapter for another model; merge the two and give the merged folder")
    absent = [name for name in _weight_files(folder) if not (folder / name).is_file()]
    if absent and any(folder.glob("*.bin")):
        raise InputError(f"{source}: its weights are a pickle; only safetensors are opened: take a model that has them")
    if absent:
        raise InputError(f"{source}: {absent[0]} is missing; {again}")
    return str(kind)


PLAIN = re.compile(r"[A-Za-z0-9_.]{1,80}")
SHAPES = (
    "num_classes img_size in_chans patch_size depth depths embed_dim embed_dims num_heads mlp_ratio window_size "
    "channels layers widths init_values class_token reg_tokens no_embed_class dynamic_img_size global_pool drop_rate "
    "drop_path_rate act_layer norm_layer qkv_bias pre_norm output_stride stem_width base_width cardinality"
)
OF_SHAPE = frozenset(SHAPES.split())
"""Arguments of timm's models that only shape them. Others name files, or run what a file names."""


def _check_of_timm(config: Mapping[str, Any], source: str) -> None:
    """Check what timm would be called with: it opens pickles by `checkpoint_path`, and asks the hub by the name.

    Raises:
        InputError: an architecture that is no name of timm's, or an argument that is not known to be harmless.
    """
    name, arguments = config.get("architecture"), config.get("model_args") or {}
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        raise InputError(f"{source}: its architecture in {CONFIG_NAME} is no name of timm's; take another model")
    if not isinstance(arguments, dict):
        raise InputError(f"{source}: model_args in its {CONFIG_NAME} is no object; take another model")
    for argument, value in arguments.items():
        parts = value if isinstance(value, list) else [value]
        plain = all(part is None or isinstance(part, bool | int | float) or _is_plain(part) for part in parts)
        if argument not in OF_SHAPE or not plain:
            raise InputError(
                f"{source}: model_args in its {CONFIG_NAME} has {argument[:80]!r}, which is not known to be harmless; "
                "save the model without it"
            )


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and PLAIN.fullmatch(value) is not None


def image_processor(what: str, folder: Path) -> Any:
    """The image processor of a model that resizes by PIL, also where torchvision is installed, which resizes otherwise.

    Args:
        what: it is for, in messages.

    Raises:
        InputError: as `opened`.
    """
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
        InputError: it cannot be loaded, or its weights take more than half of the memory.
    """
    from dpd_runtime.machine import usable_memory  # here, as --help imports this module

    options |= {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    weights, memory = bytes_of_weights(folder), usable_memory()
    if memory is not None and 2 * weights > memory:  # as the file's type may be half as wide
        raise InputError(
            f"{what}: its weights are {weights / 1e9:.1f} GB, more than half of the {memory / 1e9:.1f} GB of memory "
            "that this process may use; take a smaller model"
        )
    with quiet():
        if is_of_timm(read_config(folder)):
            options["config"] = opened(what, lambda: _config_of_timm(folder, options.pop("num_labels", None)))
        model, report = opened(
            what, lambda: model_class.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
        )
    return model, sorted(report["missing_keys"])


def _config_of_timm(folder: Path, num_labels: int | None) -> Any:
    """The config of a model of timm. Where timm itself saved it, its arguments have the number of classes too, which
    transformers gives a second time.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    (config.model_args or {}).pop("num_classes", None)
    if num_labels is not None:
        config.num_labels = num_labels
    return config


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
    index = read_config(folder, "model.safetensors.index.json").get("weight_map")
    names = set(map(str, index.values())) if isinstance(index, dict) else set()
    return sorted(names) or [WEIGHTS_NAME]
