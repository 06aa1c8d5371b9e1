"""What every test run shares: what it ran with, where shared data lie, and how a fresh process finds our packages."""

import fcntl
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

MOST_WORKERS = 4
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

# Before numpy or torch are imported: in a container both would count the host's cores and fight over ours.
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, _CORES)))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["DPD_NETWORKS"] = ""  # published networks of this machine would watch in every test
os.environ["HF_HUB_CACHE"] = "/nonexistent/hub"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # under nohup; processes of the tests would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if importlib.util.find_spec("torch") is None:  # a site, or an environment with the lowest versions
    collect_ignore = [f"unit/{room}" for room in ("train", "eval", "export", "distill", "neighbours", "private")]

DATA = Path(__file__).parents[1].parent / "shared" / "data"
ROOMS = (
    "dpd_runtime",
    "dpd_train",
    "dpd_eval",
    "dpd_export",
    "dpd_distill",
    "dpd_cli",
    "dpd_neighbours",
    "dpd_private",
)


def pytest_xdist_auto_num_workers() -> int:
    """As many processes as this one may use cores, of its affinity and of the container's quota; one thread each."""
    from dpd_runtime.machine import usable_cores

    return min(MOST_WORKERS, usable_cores())


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that one of the processes fills by `make`; the others wait for it."""
    root = factory.getbasetemp().parent if WORKER else factory.getbasetemp()
    folder = root / f"shared-{name}"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            make(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What lies under tests/full is marked so."""
    for item in items:
        if Path(__file__).with_name("full") in item.path.parents:
            item.add_marker(pytest.mark.full)


def pytest_report_header() -> list[str]:
    def found(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} absent"

    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
    except ImportError:
        providers = "none"
    threads = f"{os.environ['OMP_NUM_THREADS']} threads on {_CORES} cores"
    return [", ".join(map(found, ("torch", "onnxruntime", "numpy"))), f"providers: {providers}; {threads}"]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("eurosat_rgb")` → the folder beside the checkout; the test is skipped where it is not there."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"shared/data/{name} is not beside the checkout")
        return DATA / name

    return folder


@pytest.fixture(scope="session", autouse=True)
def own_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty user configuration and state: the user's trusted keys are not read, and nothing is remembered there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def process_environment(own_configuration: None) -> dict[str, str]:
    """Environment in which a new Python sees the packages which this one sees: a checkout's or the wheel's."""
    specs = [importlib.util.find_spec(room) for room in ROOMS]
    roots = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
    ours = ("DPD_DEBUG", "PYTHONSAFEPATH")  # which a command that ran in this process has set
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return environment | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(roots))}


@pytest.fixture(scope="session")
def tiny_trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory that `train` left. Needs PyTorch. Tests read it and do not change it."""
    pytest.importorskip("torch")
    from tests.tiny import tiny_run

    return made_once(tmp_path_factory, "run", tiny_run) / "run"


@pytest.fixture(scope="session")
def tiny_bundle(tiny_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle in float32, as one file: tracing takes most of the time of the tests that need one."""
    from tests.tiny import tiny_export

    def export(folder: Path) -> None:
        tiny_export(tiny_trained, folder / "tiny.dpd", precision="fp32")

    return made_once(tmp_path_factory, "bundle", export) / "tiny.dpd"


@pytest.fixture(scope="session")
def run(tiny_trained: Path) -> Path:
    """A run directory that `train` left."""
    return tiny_trained


@pytest.fixture(scope="session")
def bundle(tiny_bundle: Path) -> Path:
    """In float32, as one file."""
    return tiny_bundle


@pytest.fixture(scope="session")
def half_bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In half precision with every option, as a folder; weights above 100 kB lie beside their graph."""
    from dpd_export import ExportOptions, export_run

    options = ExportOptions(vae_encoder=True, dynamic_size=True, largest_file=100_000)
    made = made_once(tmp_path_factory, "half", lambda folder: export_run(run, folder / "half", options))
    return made / "half"


@pytest.fixture(scope="session")
def matched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a run with CODES matched codes of each class, and its float32 bundles whole.dpd and codes.dpd."""
    from tests.tiny import tiny_matched

    return made_once(tmp_path_factory, "matched", tiny_matched)
