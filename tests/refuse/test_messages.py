"""Errors of commands as a user sees them: one line on stderr, the right exit code, nothing written."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import Done
from tests.commands import dpd as run_dpd

FROZEN = Path(__file__).parents[1] / "frozen"

RUNTIME = find_spec("dpd_runtime")
EMBEDDED = Path(str(RUNTIME and RUNTIME.origin)).parent / "data" / "eurosat64.dpd"
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="a site has no PyTorch and no students")
needs_bundle = pytest.mark.skipif(not EMBEDDED.is_file(), reason="the package holds no embedded bundle yet")
no_plugin = pytest.mark.skipif(
    find_spec("onnxruntime_ep_nv_tensorrt_rtx") is not None, reason="the plugin is installed"
)


def generate(arguments: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str, Done]:
    return dpd("generate", arguments, environment, folder)


def dpd(verb: str, arguments: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str, Done]:
    """Exit code, the one line on stderr, and everything else."""
    done = run_dpd([verb, *arguments], environment, folder)
    assert done.stderr.endswith("\n"), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("dpd: ")
    assert "internal error" not in lines[0]
    return done.returncode, lines[0], done


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["--ipc", "0"], 2, ["ipc is 0", "at least 1"], id="ipc", marks=needs_bundle),
        pytest.param(["--ipc", "9" * 20], 2, ["ipc is 999", "at most 1000000"], id="ipc large", marks=needs_bundle),
        pytest.param(["--seed", "-1"], 2, ["seed is -1", "0 … 2**64"], id="seed", marks=needs_bundle),
        pytest.param(["--seed", str(2**64)], 2, ["seed is 1844", "0 … 2**64"], id="seed large", marks=needs_bundle),
        pytest.param(["--seed", "inf"], 2, ["--seed"], id="seed inf", marks=needs_bundle),
        pytest.param(["--shard", "2/2"], 2, ["the last one is 1/2"], id="shard"),
        pytest.param(["--shard", "half"], 2, ["--shard half", "0/4"], id="shard-text"),
        pytest.param(
            ["--solver", "heun"],
            2,
            ["'heun'", "ddim, dpm++2m, unipc, euler, lcm, tcd"],
            id="solver",
            marks=needs_bundle,
        ),
        pytest.param(["--steps", "0"], 2, ["steps is 0", "1 … 1000"], id="steps", marks=needs_bundle),
        pytest.param(["--sed", "3"], 2, ["no such option --sed; did you mean --seed?; see"], id="option"),
        pytest.param(["--model", "x"], 2, ["no such option --model; see"], id="option-of-dashes"),
        pytest.param(["--workers", "3"], 2, ["no such option --workers; see"], id="nothing-like-it"),
        pytest.param(["--force"], 2, ["no such option --force; did you mean --overwrite?"], id="called-otherwise"),
        pytest.param(["--num-inference-steps", "0"], 2, ["steps is 0"], id="diffusers", marks=needs_bundle),
        pytest.param(["--num-inference-steps=0"], 2, ["steps is 0"], id="diffusers-joined", marks=needs_bundle),
        pytest.param(["--classes", "--output"], 2, ["--output"], id="a-value", marks=needs_bundle),
        pytest.param(["--cand", "3"], 2, ["no such option --cand; did you mean --candidates?"], id="begun-option"),
        pytest.param(["--qqq"], 2, ["no such option --qqq; see", "generate --help"], id="unlike-any-option"),
        pytest.param(["--format", "jpeg"], 2, ["'jpeg' is unknown", "use --image-format jpeg"], id="format"),
        pytest.param(["--image-format", "npz"], 2, ["'npz' is unknown", "a npz set use --format"], id="image-format"),
        pytest.param(["--classes", "Sea"], 2, ["'Sea'", "which has", "Forest"], id="class", marks=needs_bundle),
        pytest.param(["--provider", "tpu"], 2, ["'tpu'", "cpu", "cuda"], id="provider", marks=needs_bundle),
        pytest.param(
            ["--provider", "tensorrt-rtx"],
            5,
            ["onnxruntime-ep-nv-tensorrt-rtx-cu13 is not installed", "pip install", '[rtx]"'],
            id="no-plugin",
            marks=[needs_bundle, no_plugin],
        ),
        pytest.param(["missing.dpd"], 2, ["missing.dpd", "no such bundle"], id="missing"),
        pytest.param(["notes.txt"], 3, ["notes.txt", "not a readable bundle"], id="no-zip"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], code: int, words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a bundle")
    found, line, done = generate([*arguments, "--out", "set"], process_environment, tmp_path)
    assert found == code, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert not (tmp_path / "set").exists(), "something was written"


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("gen", "; did you mean generate?"),
        ("genrate", "; did you mean generate?"),
        ("trian", "; did you mean train?"),
        ("en", "; did you mean engines or encrypt?"),
        ("xyz", ""),
    ],
)
def test_an_unknown_command_is_answered_with_a_known_one(
    command: str, advice: str, process_environment: dict[str, str], tmp_path: Path
) -> None:
    for before, after in ([], []), (["--debug"], []), ([], ["--debug"]):
        done = run_dpd([*before, command, "--ipc", "1", *after], process_environment, tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"dpd: no such command '{command}'{advice}; see dpd --help"


@needs_bundle
@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("place", ["locked", "locked/new/set"])
def test_a_folder_that_cannot_be_written_is_named(
    place: str, more: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    command = [sys.executable, "-m", "dpd_cli", "generate", "--ipc", "1", "--out", place, *more]
    if os.geteuid() == 0:  # root writes everywhere, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to give up its rights with")
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override", *command]
    done = subprocess.run(
        command, env=process_environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 5
    assert done.stderr == (
        "dpd: locked: this folder cannot be written (Permission denied); choose another --out, or make the folder "
        "writable and run the same command again\n"
    )


@needs_bundle
def test_a_set_is_overwritten_only_by_one_that_can_be_made(process_environment: dict[str, str], tmp_path: Path) -> None:
    assert run_dpd(["generate", "--ipc", "1", "--out", "set"], process_environment, tmp_path).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    wrong = ["--ipc", "1", "--out", "set", "--overwrite", "--solver", "lcm", "--steps", "60"]
    found, line, _ = generate(wrong, process_environment, tmp_path)
    assert found == 2
    assert "it must be 1 … 50" in line
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before


@needs_bundle
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_a_folder_with_other_content_is_left_alone(
    overwrite: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("four years")
    found, line, _ = generate(["--ipc", "1", "--out", "mine", *overwrite], process_environment, tmp_path)
    assert found == 2, line
    assert "mine: is not empty and is not a distilled set" in line
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "four years"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--ipc", "ten"], ["--ipc ten", "such as 10,50"], id="ipc"),
        pytest.param(["--out", "no/such/a.json"], ["the folder no/such does not exist"], id="out"),
        pytest.param(
            ["--baselines", "best"],
            ["'best'", "random, herding, k-center, k-means, full, foreground, tdds"],
            id="baseline",
            marks=needs_torch,
        ),
        pytest.param(
            ["--students", "hf:a/b"], ["a/b", "on this machine", "hf download a/b"], id="student", marks=needs_torch
        ),
        pytest.param(
            ["--no-metrics", "--extractor", "own"], ["--extractor own", "no effect"], id="no-use", marks=needs_torch
        ),
    ],
)
def test_evaluate_says_what_is_wrong_before_it_reads_an_image(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["set", "--train", "train", "--test", "val", *arguments]
    found, line, done = dpd("evaluate", arguments, process_environment, tmp_path)
    assert found == 2, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@needs_bundle
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["--flavour", "cuda"], 2, ["'cuda'", "use tensorrt-rtx or tensorrt"], id="flavour"),
        pytest.param(
            ["--flavour", "tensorrt"],
            5,
            ["tensorrt is not installed", "pip install", '[trt]"'],
            id="no-tensorrt",
            marks=pytest.mark.skipif(find_spec("tensorrt") is not None, reason="tensorrt is installed"),
        ),
        pytest.param(
            ["--compute-capability", "89"],
            5,
            ["tensorrt-rtx is not installed", "pip install", '[rtx-build]"'],
            id="no-rtx",
            marks=pytest.mark.skipif(find_spec("tensorrt_rtx") is not None, reason="tensorrt-rtx is installed"),
        ),
        pytest.param(["--compute-capability", "ada"], 2, ["'ada'", "89 or 8.9"], id="capability"),
    ],
)
def test_engines_says_what_is_wrong_without_pytorch(
    arguments: list[str], code: int, words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    found, line, done = dpd("engines", [str(EMBEDDED), "--out", "new.dpd", *arguments], process_environment, tmp_path)
    assert found == code, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "arguments", "code", "words"),
    [
        pytest.param("keygen", ["old"], 2, ["old.key exists", "never overwritten"], id="keygen-old"),
        pytest.param(
            "keygen", ["--encryption", "a", "--passphrase-file", "notes.txt"], 2, ["no effect"], id="keygen-no-use"
        ),
        pytest.param("sign", ["site.dpd", "--key", "none.key"], 2, ["none.key: No such file"], id="sign-no-key"),
        pytest.param(
            "sign", ["site.dpd", "--key", "notes.txt"], 2, ["notes.txt", "not a private key in PEM"], id="sign-text"
        ),
        pytest.param("encrypt", ["notes.txt", "--out", "a.dpde"], 2, ["no key to encrypt", "--key"], id="no-key"),
        pytest.param(
            "encrypt", ["notes.txt", "--out", "a.dpde", "--key", "short.key"], 2, ["32 bytes"], id="short-key"
        ),
        pytest.param(
            "encrypt",
            ["notes.txt", "--out", "a.dpde", "--key", "notes.txt"],
            3,
            ["notes.txt: not a readable bundle"],
            id="encrypt-text",
        ),
        pytest.param(
            "decrypt",
            ["notes.txt", "--out", "a.dpd", "--key", "notes.txt"],
            2,
            ["notes.txt is not encrypted"],
            id="decrypt-plain",
        ),
        pytest.param(
            "info", ["notes.txt", "--key-file", "a.key"], 2, ["no --key-file any more", "--key FILE"], id="key"
        ),
        pytest.param(
            "verify", ["notes.txt", "--require-dp", "1"], 2, ["no --require-dp any more", "dp:EPSILON"], id="require-dp"
        ),
        pytest.param("verify", ["notes.txt", "--require", "safe"], 2, ["'safe' is unknown", "audit"], id="require"),
        pytest.param("verify", ["notes.txt", "--require", ""], 2, ["'' is unknown"], id="require-nothing"),
        pytest.param("verify", ["notes.txt", "--require", "signature,dp:0"], 2, ["dp:0: give"], id="require-zero"),
        pytest.param("info", ["notes.txt", "--key", "notes.txt"], 2, ["not encrypted", "check the path"], id="plain"),
        pytest.param(
            "verify",
            ["notes.txt", "--trusted-key", "notes.txt"],
            2,
            ["not a public key in PEM", ".pub"],
            id="trust-text",
        ),
    ],
)
def test_keys_and_seals_say_what_is_wrong(
    verb: str, arguments: list[str], code: int, words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "short.key").write_bytes(bytes([255] * 31))
    (tmp_path / "notes.txt").write_text("neither a bundle nor a key")
    (tmp_path / "old.key").write_text("kept")
    environment = {name: value for name, value in process_environment.items() if name != "DPD_PASSPHRASE"}
    found, line, done = dpd(verb, arguments, environment, tmp_path)
    assert found == code, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "old.key", "short.key"]
    assert (tmp_path / "old.key").read_text() == "kept"


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--prototype-noise", "-1"], ["--prototype-noise is -1.0", "at least 0"], id="noise"),
        pytest.param(["--prototype-noise", "inf"], ["--prototype-noise is inf", "finite"], id="noise-inf"),
        pytest.param(
            ["--prototype-noise", "1", "--prototypes", "medoid"],
            ["--prototype-noise has no effect", "medoid", "centroid or pooled"],
            id="noise-medoid",
        ),
        pytest.param(["--samples", "centre"], ["'centre' is unknown", "foreground, tdds"], id="samples"),
        pytest.param(["--samples", "tdds"], ["tdds:", "as in tdds:0.7"], id="share"),
        pytest.param(["--crop", "foreground"], ["no --crop any more", "--samples foreground"], id="crop"),
        pytest.param(["--prune", "tdds:0.5"], ["no --prune any more", "--samples tdds:0.7"], id="prune"),
        pytest.param(["--segmenter", "a,b"], ["no --segmenter any more", "foreground:A+B"], id="segmenter"),
        pytest.param(["--samples", "foreground:a/b"], ["foreground:a/b", "two models"], id="one-segmenter"),
        pytest.param(["--samples", "foreground:a/b+c/d"], ["a/b", "hf download a/b"], id="segmenter-not-here"),
        pytest.param(
            ["--samples", "foreground", "--keep-near-duplicates"],
            ["scenes have 64 px, not more than the 64 px", "leave foreground out"],
            id="crop-small",
        ),
        pytest.param(
            ["--split", "names"],
            ["scenes: class 'Same' has 1 different images", "--keep-near-duplicates"],
            id="near-duplicates",
        ),
        pytest.param([], ["scenes: class 'Same': no group of its files", "near duplicates", "val/"], id="one-scene"),
    ],
)
def test_train_says_what_is_wrong(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name in ("Other", "Same"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        tiles = rng.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
        for number, tile in enumerate(tiles if name == "Other" else tiles[:1].repeat(5, axis=0)):
            Image.fromarray(tile).resize((64, 64)).save(tmp_path / "scenes" / name / f"{number}.png")
    options = ["--out", "run", "--device", "cpu"]
    found, line, done = dpd("train", ["scenes", *options, *arguments], process_environment, tmp_path)
    assert found == 2, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], ["DATA is missing", "one folder of images per class"], id="no-data"),
        pytest.param(["scenes", "--rounds", "3"], ["no --rounds any more", "dpd federate HOST:PORT"], id="rounds"),
        pytest.param(
            ["--federated", "client", "a:1"], ["no --federated any more", "--tuning federated:HOST:PORT"], id="client"
        ),
        pytest.param(["--tuning", "federated:10.0.0.1"], ["federated:10.0.0.1", "HOST:PORT"], id="address"),
        pytest.param(["--tuning", "federated:a:1,no.pem"], ["no.pem: no such file", "PEM"], id="certificate"),
        pytest.param(["--tuning", "pooled:a:1"], ["'pooled' is unknown", "federated"], id="tuning"),
        pytest.param(
            ["scenes", "--grad-compression", "top-k:50"],
            ["'top-k' is unknown", "rs-dgc"],
            id="gradients",
            marks=needs_torch,
        ),
        pytest.param(
            ["scenes", "--grad-compression", "rs-dgc:9"], ["rs-dgc:9", "12 to 200"], id="ratio", marks=needs_torch
        ),
    ],
)
def test_train_says_what_is_wrong_with_several_machines_without_pytorch(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    found, line, done = dpd("train", [*arguments, "--out", "run"], process_environment, tmp_path)
    assert found == 2, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_spec("flwr") is None, reason='Flower is not installed: "dpd-distill[fed]"')
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param([], ["DATA is missing"], id="data"),
        pytest.param(["scenes", "--steps", "4"], ["--steps has no effect with --tuning federated:a:1"], id="decided"),
        pytest.param(["scenes", "--preset", "quick"], ["--tuning goes with neither --preset"], id="preset"),
        pytest.param(["scenes", "--max-minutes", "1"], ["--tuning goes with neither"], id="minutes"),
    ],
)
def test_a_site_is_told_what_the_server_decides(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    given = [*arguments, "--tuning", "federated:a:1", "--out", "run"]
    found, line, _ = dpd("train", given, process_environment, tmp_path)
    assert found == 2, line
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["10.0.0.1"], ["'10.0.0.1'", "HOST:PORT"], id="address"),
        pytest.param(["a:1"], ["--classes needs at least two"], id="classes"),
        pytest.param(["a:1", "--classes", "a,a/b"], ["'a/b' cannot be a class"], id="name"),
        pytest.param(["a:1", "--classes", "a,b", "--clients", "0"], ["--clients is 0"], id="clients"),
        pytest.param(
            ["a:1", "--classes", "a,b", "--rounds", str(10**9)], ["--rounds is 10", "1 to 10000"], id="rounds"
        ),
        pytest.param(["a:1", "--classes", "a,b", "--steps", "5"], ["--steps 5 for 10 rounds"], id="steps"),
        pytest.param(["a:1", "--classes", "a,b", "--tls-root", "no.pem"], ["no.pem: no such file"], id="file"),
        pytest.param(["a:1", "--classes", "a,b", "--tls-root", __file__], ["TLS needs all of"], id="tls"),
        pytest.param(["a:1", "--classes", "a,b", "--grad-compression", "rs-dgc"], ["12 to 200"], id="ratio"),
    ],
)
def test_federate_says_what_is_wrong_without_pytorch(
    arguments: list[str], words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    found, line, done = dpd("federate", [*arguments, "--out", "run"], process_environment, tmp_path)
    assert found == 2, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        pytest.param(["missing.dpd"], 2, ["missing.dpd", "no such bundle"], id="missing"),
        pytest.param(["empty"], 2, ["empty: holds no class folders", "class"], id="nothing"),
        pytest.param(["empty", "--out", "new.dpd"], 2, ["--out new.dpd has no effect", "no bundle"], id="out"),
        pytest.param(["x.dpd", "--out", "notes.txt"], 2, ["--out notes.txt exists", "--overwrite"], id="there"),
        pytest.param(
            ["x.dpd", "--out", "notes.txt", "--overwrite"],
            2,
            ["notes.txt is not an intact bundle", "not over"],
            id="mine",
        ),
        pytest.param(["x.dpd", "--images", "0"], 2, ["--images is 0", "500"], id="images"),
        pytest.param(["x.dpd", "--seed", "-1"], 2, ["--seed is -1"], id="seed"),
        pytest.param([str(EMBEDDED)], 2, ["scenes: no such folder"], id="data", marks=needs_bundle),
        pytest.param(
            [str(EMBEDDED), "--run", "empty"],
            2,
            ["--run empty: no pipeline/", "exported"],
            id="run",
            marks=needs_bundle,
        ),
    ],
)
def test_audit_says_what_is_wrong(
    arguments: list[str], code: int, words: list[str], process_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    found, line, done = dpd("audit", [*arguments, "--train", "scenes"], process_environment, tmp_path)
    assert found == code, line
    assert [word for word in words if word not in line] == [], line
    assert done.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes.txt"]


@pytest.mark.parametrize("arguments", [["info", "--json"], ["--help"]])
def test_output_that_nobody_reads_ends_in_silence(arguments: list[str], process_environment: dict[str, str]) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "dpd_cli", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, env=process_environment, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_letter_that_the_terminal_lacks_is_shown_by_its_code(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    (tmp_path / "Fluß.dpd").symlink_to(EMBEDDED)
    environment = process_environment | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "dpd_cli", "info", "Fluß.dpd"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"eurosat64: Flu\\xdf.dpd" in done.stdout


def test_what_info_suggests_for_an_encrypted_bundle_opens_it(
    tmp_path: Path, process_environment: dict[str, str]
) -> None:
    codes, lab = (FROZEN / name for name in ("format2.dpd", "lab.pub"))
    for arguments in (
        ["keygen", "--encryption", "site"],
        ["encrypt", str(codes), "--out", "site.dpde", "--key", "site.key"],
        ["info", "site.dpde", "--key", "site.key", "--trusted-key", str(lab)],
    ):
        done = run_dpd(arguments, process_environment, tmp_path)
        assert done.returncode == 0, done.stderr
    words = f"dpd generate site.dpde --key site.key --trusted-key {lab} --ipc 10 --out distilled"
    assert done.stdout.splitlines()[-1] == f"next        {words}"
