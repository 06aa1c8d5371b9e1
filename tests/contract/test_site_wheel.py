"""The wheel of a site holds the runtime and the site's commands, and they run without any other room."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "airgap" / "site_wheel.py").is_file():
    pytest.skip("a site has the tests alone, without airgap/", allow_module_level=True)
METADATA = """Metadata-Version: 2.4
Name: dpd-distill
Version: 9.8.dev0
Requires-Dist: numpy>=1.26
Provides-Extra: gpu-cuda12
Requires-Dist: onnxruntime-gpu; extra == "gpu-cuda12"
Provides-Extra: train
Requires-Dist: torch>=2.6; extra == "train"

Version: 9.8.dev0 in a text
"""
RUN = """
import sys
for room in ("dpd_train", "dpd_eval", "dpd_distill", "dpd_export", "torch"):
    sys.modules[room] = None
sys.modules["dpd_cli.research"] = None  # which an editable install would find, wherever dpd_cli is
from dpd_cli.main import main
main()
"""


VERSION = "9.8.dev0"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("site_wheel", ROOT / "airgap" / "site_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("wheel")
    whole = folder / f"dpd_distill-{VERSION}-py3-none-any.whl"
    sources = [(ROOT, "dpd_runtime"), (ROOT, "dpd_train"), (ROOT / "cli", "dpd_cli")]
    with zipfile.ZipFile(whole, "w") as files:
        for root, package in sources:
            for path in sorted((root / package).rglob("*")):
                if path.is_file() and path.suffix in (".py", ".dpd", ".typed", ".toml", ".json"):
                    files.write(path, path.relative_to(root).as_posix())
        files.writestr(f"dpd_distill-{VERSION}.dist-info/METADATA", METADATA)
        files.writestr(f"dpd_distill-{VERSION}.dist-info/entry_points.txt", "[dpd.students]\na = b:c\n")
        files.writestr(f"dpd_distill-{VERSION}.dist-info/RECORD", "")
    made = module.make_site_wheel(whole, folder / "out")
    assert made.read_bytes() == module.make_site_wheel(whole, folder / "again").read_bytes()
    with zipfile.ZipFile(made) as files:
        files.extractall(folder / "site")
    return folder / "site"


def dpd(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(place), "PATH": "/usr/bin:/bin", "HOME": str(place.parent), "NO_COLOR": "1"}
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, env=environment, cwd=place.parent, capture_output=True, text=True, timeout=300)


def test_it_holds_what_a_site_runs(place: Path) -> None:
    assert {path.name for path in place.iterdir()} == {
        "dpd_runtime",
        "dpd_cli",
        f"dpd_distill-{VERSION}+site.dist-info",
    }
    commands = {path.stem for path in (place / "dpd_cli" / "commands").glob("*.py")}
    assert commands == {"__init__", "bundles", "doctor", "generate", "predict"}
    about = (place / f"dpd_distill-{VERSION}+site.dist-info" / "METADATA").read_text()
    assert f"\nVersion: {VERSION}+site\n" in about
    assert about.endswith(f"\nVersion: {VERSION} in a text\n")
    assert "gpu-cuda12" in about
    assert "torch" not in about
    record = (place / f"dpd_distill-{VERSION}+site.dist-info" / "RECORD").read_text().splitlines()
    named = {line.split(",")[0] for line in record}
    assert named == {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}


def test_its_commands_run_without_the_other_rooms(place: Path) -> None:
    done = dpd(place, "--help")
    said = done.stdout
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name} " in said for name in ("generate", "verify", "predict", "keygen"))
    assert "\n  train " not in said
    done = dpd(place, "generate", "--ipc", "1", "--classes", "Forest", "--provider", "cpu", "--out", "set")
    assert done.returncode == 0, done.stderr
    assert (place.parent / "set" / "Forest" / "Forest_00000.png").is_file()
    done = dpd(place, "info")
    assert done.returncode == 0, done.stderr
    refused = dpd(place, "train", "scenes")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("dpd: dpd train is not in this installation, which is a site's: it has info, ")
    assert dpd(place, "trian").stderr == "dpd: no such command 'trian'; see dpd --help\n"
