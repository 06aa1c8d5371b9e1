"""Bad input is refused before PyTorch is imported: within a second of CPU, not after minutes on a busy machine."""

import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import dpd
from tests.squares import write_squares

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="without PyTorch the missing extra is named first")

LONGEST = 1.5  # seconds of CPU; 0.1 to 0.6 were measured, and 2.5 to 10 with PyTorch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scenes/ of two classes with 6 images each, one/ with one class, empty/, full/ and a text file."""
    root = tmp_path_factory.mktemp("early")
    for name in ("scenes", "one", "empty", "full"):
        (root / name).mkdir()
    write_squares(root / "scenes", 16, 6)
    (root / "one" / "Blue").mkdir()
    for path in (root / "scenes" / "Blue").iterdir():
        (root / "one" / "Blue" / path.name).write_bytes(path.read_bytes())
    (root / "full" / "mine.txt").write_text("of the user")
    (root / "notes.txt").write_text("no bundle, no list")
    return root


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train ../nothere --out new", "../nothere: no such folder"),
        ("train empty --out new", "holds no class folders"),
        ("train one --out new", "holds one class only ('Blue')"),
        ("train notes.txt --out new", "is a file; give a folder"),
        ("distill one --out new", "holds one class only ('Blue')"),
        ("distill scenes --out new.dpd --minutes 0", "--minutes is 0"),
        ("train scenes --out full", "full is not empty"),
        ("train scenes --out new --prototypes best", "--prototypes 'best' is unknown"),
        ("train scenes --out new --prototypes matched", "--prototypes matched needs at least 20 in each"),
        ("train scenes --out new --captioner best", "no captioner 'best'"),
        ("train scenes --out new --base best/base", "base 'best/base': no such folder, and not in this machine's hub"),
        ("train scenes --out new --resolution 100", "--resolution 100: base 'nano' takes multiples of 16 px"),
        ("train scenes --out new --device tpu", "device 'tpu' is unknown"),
        ("train scenes --out new --crop foreground --segmenter sam", "give two models with a comma"),
        ("train scenes --out new --val-per-class 5", "class 'Blue' has 1 usable image in part 'train'"),
        ("export nothere --out new.dpd", "nothere: no run.json in it"),
        ("export full --out new.dpd --precision fp7", "precision 'fp7' is unknown"),
        ("evaluate nothere --train scenes --test val", "nothere: no such folder"),
        ("evaluate scenes --train one --test val", "holds one class only"),
        ("evaluate scenes --train scenes --test nothere", "nothere: no such folder"),
        ("evaluate scenes --train scenes --test val --students best", "no student 'best'"),
        ("evaluate scenes --train scenes --test val --recipe best", "no recipe 'best'"),
        ("evaluate scenes --train scenes --test val --ipc 6", "class Blue has 5 real images, --ipc asks for 6"),
        ("select nothere --method random --ipc 2 --out new", "nothere: no such folder"),
        ("select scenes --method best --ipc 2 --out new", "no selection method 'best'"),
        ("select scenes --method k-means --ipc 9 --out new", "class Blue has 5 real images, --ipc asks for 9"),
        ("select scenes --method random --ipc 2 --out full", "is not a distilled set"),
        ("audit nothere --train scenes", "nothere: no such bundle, run or set"),
        ("audit notes.txt --train scenes", "not a readable bundle"),
        ("audit empty --train scenes", "empty: holds no class folders"),
        ("audit BUNDLE --train scenes", "--train: its classes differ from the audited ones"),
        ("pretrain nothere --out new", "nothere: no such folder"),
        ("pretrain scenes --out new --stage best", "--stage 'best' is unknown"),
        ("pretrain scenes --out new --denoiser-rate 0", "--denoiser-rate is 0.0: it must be positive"),
        ("pretrain scenes --out new --features best", "--features 'best' is unknown: use swimdiff"),
        (
            "pretrain scenes --out new --features swimdiff --start nano",
            "--start has no effect with --features swimdiff",
        ),
        (
            "pretrain scenes --out new --features swimdiff --denoiser-steps 3",
            "--denoiser-steps has no effect with --features swimdiff",
        ),
        ("pretrain scenes --out new --swimdiff-steps 3", "--swimdiff-steps has no effect without --features swimdiff"),
        ("pretrain nothere --out new --features swimdiff", "nothere: no such folder"),
        ("pretrain scenes --out full --features swimdiff", "full is not an empty folder; choose another --out"),
        ("pretrain scenes --out new --features swimdiff --swimdiff-batch 9999", "it must be at most 4096"),
        ("pretrain scenes --out new --features swimdiff --swimdiff-steps 0", "--swimdiff-steps is 0: give at least 1"),
        ("pretrain scenes --out new --features swimdiff --swimdiff-rate 0", "--swimdiff-rate is 0: it would train not"),
        ("pretrain scenes --out new --features swimdiff --swimdiff-rate nan", "--swimdiff-rate is nan: give a number"),
        ("pretrain scenes --out new --bands 3,2,1", "are for a VAE of other bands than red, green and blue"),
        ("pretrain scenes --out new --bands all --stage decoder", "--stage has no effect with --bands"),
        ("pretrain scenes --out new --bands all --denoiser-steps 3", "--denoiser-steps has no effect with --bands"),
        ("pretrain scenes --out new --bands all --crops", "--crops has no effect with --bands"),
        ("pretrain drawn:9 --out new --bands all", "drawn:9: drawn scenes are red, green and blue"),
        ("report nothere", "nothere: does not exist; give a JSON file"),
        ("report scenes", "contains no dataset.json, bundle.json or run.json"),
        ("engines notes.txt --out new.dpd", "not a readable bundle"),
    ],
)
def test_bad_input_is_refused_before_anything_heavy_is_imported(
    arguments: str, words: str, folder: Path, process_environment: dict[str, str]
) -> None:
    spec = find_spec("dpd_runtime")
    bundle = Path(str(spec and spec.origin)).parent / "data" / "eurosat64.dpd"
    if "BUNDLE" in arguments and not bundle.is_file():
        pytest.skip("the package holds no embedded bundle")
    given = [str(bundle) if word == "BUNDLE" else word for word in arguments.split()]
    done = dpd(given, process_environment, folder, with_pytorch=False)
    assert done.heavy == (), done.stderr
    assert words in done.stderr
    assert done.returncode in (2, 3), done.stderr  # 3: what should be a bundle is not one
    assert done.cpu < LONGEST, done.stderr
    assert not (folder / "new").exists()


def import_pytorch() -> None:
    importlib.import_module("torch")


def test_the_check_above_can_fail(folder: Path, process_environment: dict[str, str]) -> None:
    done = dpd([], process_environment, folder, command=f"{__name__}:import_pytorch", with_pytorch=False)
    assert done.heavy == ("torch",)
    assert done.cpu > 0.5
