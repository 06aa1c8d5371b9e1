"""A CLIP tokenizer with a small vocabulary: byte-level BPE over remote-sensing words, 32 tokens long."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
SCENE_WORDS = """
a an the of with and in on at near satellite aerial image photo view scene high low resolution
airplane airport annual crop agricultural area bare land barren baseball diamond field basketball court beach bridge
buildings building bus cemetery center chaparral church circular cloud commercial crosswalk dense residential desert
dock farmland ferry football forest freeway golf course grass green greenhouse ground track harbor herbaceous
vegetation highway house houses industrial intersection island lake lawn meadow medium mobile home park mountain
overpass palace parking lot pasture permanent playground pond port power plant railway station resort river road
roundabout runway sand school sea ice ship snow solar panel sparse square stadium storage tanks tank swimming pool
tennis terrace thermal town tower transformer tree trees village vineyard viaduct water wetland wind turbine woods
"""


def build_tokenizer(phrases: Sequence[str], folder: Path) -> CLIPTokenizer:
    """Learn merges from scene words and `phrases`, write vocab.json and merges.txt, and open the tokenizer."""
    words = sorted({word for text in (SCENE_WORDS, *phrases) for word in text.lower().split()})
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, min_frequency=1, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator([word for word in words for _ in range(2)], trainer)
    with tempfile.TemporaryDirectory() as scratch:
        learner.model.save(scratch)
        merges = Path(scratch, "merges.txt").read_text(encoding="utf-8").splitlines()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [line for line in merges if not line.startswith("#")]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    tokens += [merge.replace(" ", "", 1) for merge in merges] + [START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, allow_nan=False), encoding="utf-8")
    return load_tokenizer(folder)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Open what `build_tokenizer` wrote."""
    return CLIPTokenizer.from_pretrained(str(folder))
