"""Bad input is refused before PyTorch is imported: within a second of CPU, not after minutes on a busy machine."""

import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpd_cli.main import COMMANDS
from dpd_train.doors import offered_names
from tests.commands import dpd
from tests.squares import write_squares

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="without PyTorch the missing extra is named first")

LONGEST = 1.5  # seconds of CPU; 0.1 to 0.6 were measured, and 2.5 to 10 with PyTorch

EARLY = [
    ("check nothere", "nothere: no such folder"),
    ("check one", "holds one class only ('Blue')"),
    ("check scenes --resolution 100", "--resolution 100: base 'nano' takes multiples of 16 px"),
    ("check scenes --resolution 0", "--resolution is 0: it must be at least 1"),
    ("check scenes --base best/base", "base 'best/base': no such folder, and not in this machine's hub"),
    ("check scenes --stretch 9:1", "stretch 9:1: LOW must be below HIGH"),
    ("distill nothere --out new.dpd", "nothere: no such folder"),
    ("distill scenes --out notes.txt/new.dpd", "notes.txt: is a file, where a folder must be"),
    ("distill scenes --out new.dpd --holdout nothere", "nothere: no such folder"),
    ("private scenes --out new.dpd --epsilon 0", "--epsilon 0: give an epsilon above 0"),
    ("private scenes --out new.dpd --epsilon 1 --public nothere", "nothere: no such folder"),
    ("train ../nothere --out new", "../nothere: no such folder"),
    ("train scenes --out notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("train scenes --out new --cache-dir notes.txt", "is a file, where a folder must be; choose another --cache-dir"),
    ("train scenes --out new --tracker excel", "--tracker 'excel' is unknown: use aim, "),
    ("train empty --out new", "holds no class folders"),
    ("train one --out new", "holds one class only ('Blue')"),
    ("train notes.txt --out new", "is a file; give a folder"),
    ("distill one --out new", "holds one class only ('Blue')"),
    ("distill scenes --out new.dpd --minutes 0", "--minutes is 0"),
    ("distill scenes --out new.dpd --tracker excel", "--tracker 'excel' is unknown: use aim, "),
    ("pretrain scenes --out new --tracker excel", "--tracker 'excel' is unknown: use aim, "),
    ("train scenes --out full", "full is not empty"),
    ("train scenes --out new --prototypes best", "--prototypes 'best' is unknown"),
    ("train scenes --out new --prototypes matched", "--prototypes matched needs at least 20 in each"),
    ("train scenes --out new --captioner best", "no captioner 'best'"),
    ("train scenes --out new --base best/base", "base 'best/base': no such folder, and not in this machine's hub"),
    ("train scenes --out new --resolution 100", "--resolution 100: base 'nano' takes multiples of 16 px"),
    ("train scenes --out new --device tpu", "--device 'tpu' is unknown"),
    ("train scenes --out new --samples foreground:sam", "give two models with a plus"),
    ("train scenes --out new --val-per-class 5", "class 'Blue' has 1 usable image in part 'train'"),
    ("export nothere --out new.dpd", "nothere: no run.json in it"),
    ("export full --out new.dpd --precision fp7", "precision 'fp7' is unknown"),
    ("export full --out new.dpd --prune best:0.3", "--prune 'best:0.3': 'best' is unknown; give magnitude, pic-pq"),
    (
        "export full --out notes.txt/new.dpd --prune pic-pq:2",
        "--prune 'pic-pq:2': give the share of the UNet's filters",
    ),
    ("engines nothere --out new.dpd", "nothere: no such bundle"),
    ("engines BUNDLE --out new.dpd --flavour best", "flavour 'best' is unknown"),
    ("keygen notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("keygen new --encryption --passphrase-file notes.txt", "--passphrase-file has no effect with --encryption"),
    ("sign nothere --key nothere", "nothere: No such file"),
    ("sign BUNDLE --key notes.txt", "notes.txt: it is not a private key"),
    ("encrypt nothere --out new.dpde --key short.key", "short.key: holds neither an encryption key, 32 bytes"),
    ("encrypt nothere --out new.dpde --key good.key", "nothere: no such bundle"),
    ("decrypt nothere --out new.dpd --key good.key", "nothere: no such"),
    ("decrypt nothere --out new.dpd --key short.key", "nothere: no such file; give what dpd encrypt wrote"),
    ("generate nothere --out new", "nothere: no such bundle"),
    ("generate BUNDLE --out new --ipc 0", "ipc is 0: ask for at least 1"),
    ("generate BUNDLE --out notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("info nothere", "nothere: no such bundle"),
    ("info BUNDLE --trusted-key nothere", "nothere: No such file"),
    ("verify nothere", "nothere: no such bundle"),
    ("verify BUNDLE --provider best", "provider 'best' is unknown"),
    ("bench nothere", "nothere: no such bundle"),
    ("bench BUNDLE --blocks 0", "blocks is 0: it must be 1"),
    ("doctor nothere", "nothere: no such bundle"),
    ("doctor --best", "no such option --best"),
    ("data get", "there is only dpd data fetch"),
    ("data fetch resnet --out new", "no network 'resnet': there are efficientnet-lite0"),
    ("demo --out notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("demo --out new --seed -1", "'--seed'"),
    ("fit nothere --out new", "nothere: no such folder"),
    ("fit one --out new", "holds one class only ('Blue')"),
    ("fit scenes --out full", "--out full exists"),
    ("fit scenes --out new --own nothere", "nothere: no such folder"),
    ("fit scenes --out new --backbone nothere", "nothere: no such folder"),
    ("fit scenes --out new --student best", "no student 'best'"),
    ("fit scenes --out new --recipe best", "no recipe 'best'"),
    ("fit scenes --out new --device tpu", "--device 'tpu' is unknown"),
    ("fit scenes --out new --resolution 0", "--resolution is 0: give at least 1"),
    ("predict nothere scenes", "nothere: no classifier"),
    ("predict nothere scenes --provider best", "--provider best: give auto, cpu, cuda"),
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
    ("audit scenes --train scenes --private notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("audit scenes --train scenes --device tpu", "--device 'tpu' is unknown"),
    ("audit scenes --train scenes --overwrite", "--overwrite has no effect without --out"),
    ("pretrain nothere --out new", "nothere: no such folder"),
    ("pretrain scenes --out full", "full is neither an empty folder nor a base"),
    ("pretrain scenes --out new --state notes.txt", "is a file, where a folder must be; choose another --state"),
    ("pretrain scenes --out new --start best/base", "base 'best/base': no such folder"),
    ("pretrain scenes --out new --stage best", "--stage 'best' is unknown"),
    ("pretrain scenes --out new --set denoiser_rate=0", "--set denoiser_rate is 0.0: it must be positive"),
    (
        "pretrain scenes --out new --features swimdiff",
        "dpd pretrain has no --features any more: give dpd swimdiff DATA --out ENC",
    ),
    ("pretrain scenes --out new --swimdiff-steps 3", "no --swimdiff-steps any more: give dpd swimdiff DATA --out ENC "),
    ("pretrain scenes --out new --swimdiff-batch=3", "no --swimdiff-batch any more: give dpd swimdiff DATA --out ENC "),
    ("pretrain scenes --out new --swimdiff-rate 3", "no --swimdiff-rate any more: give dpd swimdiff DATA --out ENC "),
    ("pretrain scenes --out new --lambda-contrast 3", "no --lambda-contrast any more: give dpd swimdiff DATA --out "),
    ("pretrain scenes --out new --lambda-diffusion 3", "no --lambda-diffusion any more: give dpd swimdiff DATA --out "),
    ("pretrain scenes --out new --bands 3,2,1", "are for a VAE of other bands than red, green and blue"),
    ("pretrain scenes --out new --bands all --stage decoder", "--stage has no effect with --bands"),
    ("pretrain scenes --out new --bands all --set denoiser_steps=3", "--set denoiser_steps has no effect with --bands"),
    ("pretrain scenes --out new --bands all --crops", "--crops has no effect with --bands"),
    ("pretrain drawn:9 --out new --bands all", "drawn:9: drawn scenes are red, green and blue"),
    ("federate here:8080 --classes A,B --out full", "full is not empty"),
    ("federate here:8080 --classes A,B --out new --device tpu", "--device 'tpu' is unknown"),
    ("swimdiff nothere --out new", "nothere: no such folder"),
    ("swimdiff one --out new --bands 3,2,1", "no such option --bands"),
    ("swimdiff scenes --out full", "full is not an empty folder; choose another --out"),
    ("swimdiff scenes --out notes.txt/new", "notes.txt: is a file, where a folder must be"),
    ("swimdiff scenes --out new --state notes.txt", "is a file, where a folder must be; choose another --state"),
    ("swimdiff scenes --out new --resolution 40", "--resolution 40: the encoder needs a multiple of 16"),
    ("swimdiff scenes --out new --max-minutes -1", "--max-minutes is -1.0: give 0 or more"),
    ("swimdiff scenes --out new --device tpu", "--device 'tpu' is unknown"),
    ("swimdiff scenes --out new --batch 9999", "--batch is 9999: it must be at most 4096"),
    ("swimdiff scenes --out new --batch 1", "--batch is 1: batch statistics need at least 2 images"),
    ("swimdiff scenes --out new --steps 0", "--steps is 0: give at least 1"),
    ("swimdiff scenes --out new --rate 0", "--rate is 0: it would train nothing"),
    ("swimdiff scenes --out new --rate nan", "--rate is nan: give a number"),
    ("swimdiff scenes --out new --lambda-contrast 0 --lambda-diffusion 0", "give numbers of 0 or more, not both 0"),
    ("swimdiff scenes/Blue --out new --val-per-class 2", "holds images without class folders, so --val-per-class"),
    ("report nothere", "nothere: does not exist; give a JSON file"),
    ("report notes.txt --out full", "--out full: is a folder"),
    ("report scenes", "contains no dataset.json, bundle.json or run.json"),
    ("engines notes.txt --out new.dpd", "not a readable bundle"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scenes/ of two classes with 6 images each, one/ with one class, empty/, full/, a text file and a key."""
    root = tmp_path_factory.mktemp("early")
    for name in ("scenes", "one", "empty", "full"):
        (root / name).mkdir()
    write_squares(root / "scenes", 16, 6)
    (root / "one" / "Blue").mkdir()
    for path in (root / "scenes" / "Blue").iterdir():
        (root / "one" / "Blue" / path.name).write_bytes(path.read_bytes())
    (root / "full" / "mine.txt").write_text("of the user")
    (root / "short.key").write_bytes(bytes([255] * 31))
    (root / "notes.txt").write_text("no bundle, no list")
    (root / "good.key").write_bytes(bytes(32))
    return root


@pytest.mark.parametrize(("arguments", "words"), EARLY)
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


def test_every_command_has_a_wrong_path_and_a_wrong_option() -> None:
    commands = [arguments.split()[0] for arguments, _ in EARLY]
    known = {name for panel in COMMANDS.values() for name in panel} | set(offered_names("dpd.commands"))
    assert set(commands) == known
    assert {name for name in known if commands.count(name) < 2} == set()


def import_pytorch() -> None:
    importlib.import_module("torch")


def test_the_check_above_can_fail(folder: Path, process_environment: dict[str, str]) -> None:
    done = dpd([], process_environment, folder, command=f"{__name__}:import_pytorch", with_pytorch=False)
    assert done.heavy == ("torch",)
    assert done.cpu > 0.5
