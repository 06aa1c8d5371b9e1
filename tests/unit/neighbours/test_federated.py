"""Federated tuning: averaging and packets as properties, one site against training alone, then Flower for real."""

import importlib.util
import io
import json
import math
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import load_file

from dpd_neighbours.federated.coordinator import Coordinator, Sent
from dpd_neighbours.federated.packet import compressed, dense, extrapolation, from_npy, size_of, unpacked, weighted_mean
from dpd_neighbours.federated.settings import (
    Server,
    Settings,
    UpdateError,
    read_settings,
    settings_of,
)
from dpd_neighbours.federated.shared import base_hash
from dpd_neighbours.federated.site import SiteInputs, TrainingSite
from dpd_neighbours.rs_dgc import RsDgc
from dpd_runtime.errors import InputError, MissingExtraError
from dpd_train.bases import load_base
from dpd_train.compute import load_state, without_prefix
from dpd_train.config import TrainConfig
from dpd_train.denoiser import train_denoiser
from dpd_train.doors import open_named
from dpd_train.run import open_run
from dpd_train.tuning import denoiser_training, trained_parts
from tests.tiny import CONFIG, drawn_scenes, latent_data, tiny_base

SHAPES = [torch.Size((6, 3, 3, 3)), torch.Size((40,))]
NUMBERS = arrays(np.float32, 40, elements=st.floats(-1e3, 1e3, width=32))
SERVER: dict[str, Any] = {"address": "127.0.0.1:8080", "classes": ("a", "b")}


def _update(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@settings(deadline=None)
@given(NUMBERS, st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
def test_the_mean_of_equal_updates_is_the_update(values: np.ndarray[Any, Any], weights: list[int]) -> None:
    update = [torch.from_numpy(values)]
    torch.testing.assert_close(weighted_mean([update] * len(weights), weights), update, rtol=1e-5, atol=1e-3)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.integers(1, 1000), st.integers(1, 1000))
def test_weights_count_as_so_many_copies(
    one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], a: int, b: int
) -> None:
    expected = np.average([one, other], axis=0, weights=[a, b])
    found = weighted_mean([[torch.from_numpy(one)], [torch.from_numpy(other)]], [a, b])
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="above 0"):
        weighted_mean([[torch.from_numpy(one)]], [0])


def _longer(updates: list[list[torch.Tensor]], weights: list[int]) -> float:
    return extrapolation(updates, weights, weighted_mean(updates, weights))


def test_a_step_is_longer_where_sites_know_different_things() -> None:
    """FedExP's two ends: m orthogonal updates of one length are worth m/2 means, equal ones a mean."""
    apart = [[torch.eye(4)[i], torch.zeros(3)] for i in range(4)]
    assert _longer(apart, [1] * 4) == pytest.approx(2)
    assert _longer([apart[0]] * 4, [5, 1, 2, 2]) == 1
    assert _longer([apart[0]], [7]) == 1
    assert _longer([[torch.zeros(3)]] * 2, [1, 1]) == 1
    lone = [apart[0], *[[torch.zeros(4), torch.zeros(3)]] * 9]  # one site of ten has learnt something
    assert _longer(lone, [1] * 10) == pytest.approx(5)
    against = [[layer, torch.zeros(3)] for layer in (torch.ones(4), -0.999 * torch.ones(4))]
    assert _longer([*against, apart[0]], [1, 1, 1]) == 1.5  # what cancels out must not become a huge step
    assert _longer([[torch.full((4,), 1e30)], [torch.full((4,), -1e30)]], [2, 1]) == 1  # no overflow


def test_a_packet_gives_back_its_update() -> None:
    update = _update(0)
    assert size_of(dense(update)) == 4 * (162 + 40)
    torch.testing.assert_close(unpacked(dense(update), SHAPES, "x"), update, rtol=0, atol=0)


def test_compressed_updates_lose_nothing_but_send_it_later() -> None:
    state, sent = RsDgc(16), [torch.zeros(shape) for shape in SHAPES]
    given_ = [torch.zeros(shape) for shape in SHAPES]
    for seed in range(6):
        update = _update(seed)
        found = unpacked(compressed(update, state), SHAPES, "x")
        for total, had, one, went in zip(sent, given_, update, found, strict=True):
            total += went
            had += one
    for key, (had, went) in enumerate(zip(given_, sent, strict=True)):
        kept = state.residual(key).view(had.shape)
        torch.testing.assert_close(went + kept, had, atol=1e-5, rtol=1e-5)


def test_where_all_neighbourhoods_go_what_is_kept_is_rounding_alone() -> None:
    update, state = _update(3), RsDgc(8)
    found = unpacked(compressed(update, state), SHAPES, "x")
    for layer, went in zip(update, found, strict=True):
        assert went.count_nonzero() > 0.3 * went.numel()
        torch.testing.assert_close(went, layer, rtol=0, atol=0.55 * float(layer.abs().max()))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a[:-1],
        lambda a: [a[0].astype(np.float64), a[1]],
        lambda a: [a[0].reshape(-1), a[1]],
        lambda a: [np.full_like(a[0], np.nan), a[1]],
    ],
)
def test_a_packet_from_outside_is_checked(spoil: Any) -> None:
    with pytest.raises(UpdateError, match="site 1 sent"):
        unpacked(spoil(dense(_update(0))), SHAPES, "site 1")


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def test_arrays_come_back_from_their_files() -> None:
    for arrays_ in (dense(_update(0)), compressed(_update(0), RsDgc(16))):
        found = from_npy([_npy(array) for array in arrays_], "x")
        assert [array.dtype for array in found] == [array.dtype for array in arrays_]
        assert all(np.array_equal(one, other) for one, other in zip(found, arrays_, strict=True))


_HEAD = b"\x93NUMPY\x01\x00\x76\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04aaaa",
        b"\x80\x04N.",
        _HEAD + b"(" * 117 + b"\n",
        _HEAD + b"{'descr': '<f4', 'fortran_order': False, 'shape': (400000000000,)}".ljust(117) + b"\n",
        _HEAD + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n12345678",
        _npy(np.ones(3)),
        _npy(np.ones(3, ">f4")),
        _npy(np.ones((2, 3), np.float32).T),
        _npy(np.ones(3, np.float32))[:-1],
        _npy(np.ones(3, np.float32)) + b"x",
    ],
)
def test_what_is_no_array_of_an_update_is_told(content: bytes) -> None:
    with pytest.raises(UpdateError, match="site 1 sent what is no array"):
        from_npy([content], "site 1")


def test_losses_and_numbers_from_outside_are_checked(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)))
    coordinator = Coordinator(load_base(config.base), config, _settings(config, 2), 1)
    arrays_ = dense([torch.zeros(shape) for shape in coordinator.shared.shapes])
    for loss, images in ((float("nan"), 3), (0.1, 0), (float("inf"), 3), (0.1, 10_000_001), (0.1, -1), (1e300, 3)):
        with pytest.raises(UpdateError, match="site 0 reports"):
            coordinator.average([Sent(arrays_, images, loss)])
    coordinator.average([Sent(arrays_, 3, 0.1)])
    for loss, images in ((float("nan"), 3), (0.1, -1), (0.1, 2**62)):
        with pytest.raises(UpdateError, match="site 0 reports"):
            coordinator.hear([(loss, images)])


def test_sums_are_checked_before_they_are_taken(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)))
    coordinator = Coordinator(load_base(config.base), config, _settings(config, 2), 4)
    before = [parameter.clone() for parameter in coordinator.shared.modules.parameters()]
    largest = max(range(len(before)), key=lambda i: before[i].numel())

    def sent(place: int) -> Sent:
        update = dense([torch.zeros(shape) for shape in coordinator.shared.shapes])
        update[largest].reshape(-1)[place] = 3e38
        return Sent(update, 1, 0.1)

    # ten sites agree, ninety know something else each: the mean of 3e37 is made longer than float32 goes
    with pytest.raises(UpdateError, match="add up to values that are not finite"):
        coordinator.average([sent(max(0, i - 9)) for i in range(100)])
    list(coordinator.shared.modules.parameters())[largest].data.view(-1)[0] = 3e38
    before[largest].view(-1)[0] = 3e38
    with pytest.raises(UpdateError, match="round 1 add up to weights that are not finite"):
        coordinator.average([sent(0)])
    assert all(torch.equal(a, b) for a, b in zip(before, coordinator.shared.modules.parameters(), strict=True))
    assert coordinator.shared.rounds == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: [a[0][1:], *a[1:]],
        lambda a: [np.zeros_like(a[0]), *a[1:]],
        lambda a: [np.full_like(a[0], 255), *a[1:]],
        lambda a: [a[0], a[1][1:], *a[2:]],
        lambda a: [a[0], a[1], a[2][1:], a[3]],
        lambda a: [a[0], np.full_like(a[1], 3**9), *a[2:]],
        lambda a: [a[0], np.full_like(a[1], -1), *a[2:]],
        lambda a: [*a[:3], a[3][1:]],
        lambda a: [*a[:3], np.full_like(a[3], np.inf)],
        lambda a: [a[0], a[1].astype(np.int64), *a[2:]],
    ],
)
def test_chosen_neighbourhoods_from_outside_are_checked(spoil: Any) -> None:
    sent = compressed(_update(0), RsDgc(16))
    unpacked(sent, SHAPES, "site 1")
    with pytest.raises(UpdateError, match="site 1 sent"):
        unpacked(spoil(sent), SHAPES, "site 1")


def _settings(config: TrainConfig, rounds: int) -> Settings:
    base = load_base(config.base)
    part = Server(address="h:1", rounds=rounds, classes=("a", "b"))
    return settings_of(part, config, base_hash(base), base.resolution)


def _ground(config: TrainConfig, folder: Path, classes: tuple[str, ...] = ("a", "b")) -> SiteInputs:
    data = latent_data()
    state = folder / "state.safetensors"
    return SiteInputs(base=load_base(config.base), data=(data, data), classes=classes, config=config, state=state)


def _rounds(config: TrainConfig, rounds: int, folder: Path, sites: int) -> tuple[Coordinator, list[TrainingSite]]:
    """All of it in this process."""
    settings_ = read_settings(_settings(config, rounds).to_json())
    coordinator = Coordinator(load_base(config.base), config, settings_, sites)
    members = [TrainingSite(_ground(config, folder / str(i)), settings_, i) for i in range(sites)]
    for number in range(1, rounds + 1):
        sent = [Sent(arrays_, site.images, loss) for site in members for arrays_, loss in (site.fit(number),)]
        back = coordinator.average(sent)
        coordinator.hear([site.take(back) for site in members])
    return coordinator, members


def _distance(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


@pytest.mark.parametrize("tune", [pytest.param("full", marks=pytest.mark.full), "lora"])
def test_one_site_is_training_alone(tune: Literal["full", "lora"], tmp_path: Path) -> None:
    """Rate, moments and draws go on over the rounds: after each the weights are those of one uninterrupted training."""
    options: dict[str, Any] = {"tune": tune, "precision": "fp32", "steps": 7, "peak_rate": 1e-3}
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), **options)
    data, base = latent_data(), load_base(config.base)
    unet, text_encoder = trained_parts(base, config)
    state = tmp_path / "alone.safetensors"
    training = replace(denoiser_training(config), validate_every=config.steps)
    train_denoiser(unet, text_encoder, data, data, base.schedule, training, state)
    alone = without_prefix("modules", load_state(state)[0])
    for rounds, most in ((1, 1e-6), (3, 3e-5)):  # Adam makes more of what rounding leaves at a round's end
        coordinator, (site,) = _rounds(config, rounds, tmp_path / str(rounds), 1)
        together = coordinator.shared.modules.state_dict()
        assert _distance(together, alone) < most
        assert _distance(together, site.shared.modules.state_dict()) == 0
    assert coordinator.history[-1]["step"] == config.steps
    before = Coordinator(load_base(config.base), config, _settings(config, 1), 1).shared.modules.state_dict()
    assert _distance(before, alone) > 1e-3  # the control
    merged = coordinator.finished(tmp_path / "adapter").unet.state_dict()
    assert _distance(merged, load_base(config.base).unet.state_dict()) > 1e-4


@pytest.mark.parametrize("compression", [None, pytest.param("rs-dgc:20", marks=pytest.mark.full)])
def test_all_know_the_same_weights_and_few_bytes_travel(compression: str | None, tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)), precision="fp32", grad_compression=compression)
    coordinator, sites = _rounds(config, 2, tmp_path, 2)
    for site in sites:
        assert _distance(coordinator.shared.average.state_dict(), site.shared.average.state_dict()) == 0
    assert sites[0].history[0]["loss"] != sites[1].history[0]["loss"]  # other draws
    sent, back, dense = (
        sum(entry[f"{name}_bytes"] for entry in coordinator.history) for name in ("sent", "returned", "dense")
    )
    assert dense / sent == pytest.approx(20 if compression else 1, rel=0.02)
    # a tenth goes back to each of two sites: that is room for every neighbourhood in three bytes, a bit and a scale
    counts = [math.ceil(shape.numel() / 9) for shape in coordinator.shared.shapes]
    assert back == (4 * sum(3 * n + math.ceil(n / 8) + 4 for n in counts) if compression else dense)
    assert all(entry["validation_loss"] > 0 for entry in coordinator.history)


def test_a_site_that_does_not_fit_is_told_why(tmp_path: Path) -> None:
    config = replace(CONFIG, base=str(tiny_base(tmp_path)))
    known, ground = _settings(config, 2), _ground(config, tmp_path)
    with pytest.raises(InputError, match="class 'c' is none of the server's, a, b"):
        TrainingSite(_ground(config, tmp_path, ("a", "c")), known, 0)
    with pytest.raises(InputError, match="are not those of the server's base"):
        TrainingSite(ground, replace(known, base="0" * 64), 0)
    with pytest.raises(InputError, match="32 px here and 64 px at the server"):
        TrainingSite(ground, replace(known, side=64), 0)
    with pytest.raises(UpdateError, match="asks for round 2, this site has done 0"):
        TrainingSite(ground, known, 0).fit(2)


def _changed(name: str, value: Any) -> Any:
    return lambda c: c | {"config": c["config"] | {name: value}}


OUT_OF_RANGE = [
    lambda c: c | {"rounds": 10_001, "config": c["config"] | {"steps": 20_000}},
    lambda c: c | {"side": 10**9},
    lambda c: c | {"side": 64.5},
    lambda c: c | {"classes": ["a", "../b"]},
    lambda c: c | {"classes": [str(i) for i in range(10_001)]},
    lambda c: c | {"base": "0" * 2**20},
    *(_changed(name, 10**12) for name in ("steps", "batch", "warmup", "lora_rank", "seed")),
    _changed("steps", 500.5),
    _changed("batch", True),
    _changed("peak_rate", 1e300),
    *(_changed("grad_compression", name) for name in ("anything:x", "rs-dgc:5", "rs-dgc", 7)),
]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        lambda c: c | {"more": 1},
        lambda c: c | {"rounds": 0},
        lambda c: c | {"config": {"steps": 1}},
        *OUT_OF_RANGE,
    ],
)
def test_settings_from_outside_are_checked(content: Any) -> None:
    config = {name: getattr(TrainConfig(), name) for name in TrainConfig.__dataclass_fields__}
    good = settings_of(Server(**SERVER), TrainConfig(**config), "0", 64)
    assert read_settings(good.to_json()) == good
    text = content if isinstance(content, str) else json.dumps(content(json.loads(good.to_json())))
    with pytest.raises(UpdateError, match="the server's settings cannot be used"):
        read_settings(text)


def _certificates(folder: Path) -> dict[str, Path]:
    """A self-signed certificate of localhost, its own authority."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, SHA256())
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "certificate.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    return {"root": folder / "certificate.pem", "certificate": folder / "certificate.pem", "key": folder / "key.pem"}


SMALL = [
    "--ipc",
    3,
    "--k-min",
    2,
    "--set",
    "teacher_steps=20",
    "--set",
    "latent_classifier_steps=20",
    "--val-per-class",
    2,
]


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return f"localhost:{found.getsockname()[1]}"


def _home(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    return {**environment, "OMP_NUM_THREADS": "1", "HOME": str(folder), "GRPC_VERBOSITY": "NONE"}


def _started(environment: Mapping[str, str], verb: str, *options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dpd_cli", verb, "--device", "cpu", "--threads", "1", *map(str, options)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--json"], env=dict(environment), **pipes)


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason='Flower is not installed: "dpd-distill[fed]"')
def test_three_processes_tune_one_model(tmp_path: Path, process_environment: Mapping[str, str]) -> None:
    """Flower over localhost with TLS: two sites, each without one of the classes, and a server without images."""
    address = _free_address()
    base, files = tiny_base(tmp_path), _certificates(tmp_path)
    every = drawn_scenes(tmp_path / "all")
    names = sorted(path.name for path in every.iterdir())
    sites = [tmp_path / "site0", tmp_path / "site1"]
    for number, site in enumerate(sites):
        shutil.copytree(every, site, ignore=shutil.ignore_patterns(names[number]))
    home = _home(process_environment, tmp_path)
    common: list[object] = [address, "--clients", 2, "--rounds", 2]
    common += ["--classes", ",".join(names), "--base", base, "--steps", 4, "--batch", 4]
    common += ["--grad-compression", "rs-dgc:20", "--out", tmp_path / "common"]
    common += [part for name, path in files.items() for part in (f"--tls-{name}", path)]
    few = [*SMALL, "--base", base, "--tuning", f"federated:{address},{files['root']}"]
    processes = [_started(home, "federate", *common)]
    processes += [
        _started(home, "train", site, *few, "--out", f"{site}-run", "--cache-dir", f"{site}-cache") for site in sites
    ]
    ended = [process.communicate(timeout=1500) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], [errors for _, errors in ended]
    assert not any("no TLS" in errors for _, errors in ended)
    runs = [tmp_path / "common", *(Path(f"{site}-run") for site in sites)]
    weights = [load_file(run / "pipeline/unet/diffusion_pytorch_model.safetensors") for run in runs]
    assert [_distance(weights[0], other) for other in weights[1:]] == [0, 0]
    assert _distance(weights[0], load_base(str(base)).unet.state_dict()) > 1e-5
    records = [json.loads((run / "run.json").read_text(encoding="utf-8")) for run in runs]
    assert [record["config"]["steps"] for record in records] == [4, 4, 4]
    assert records[0]["federated"]["dense_bytes"] > 4 * records[0]["federated"]["sent_bytes"]
    lines = (runs[0] / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    assert open_run(runs[1]).record["federated"]["role"] == "client"
    with pytest.raises(InputError, match="has no classifiers; on a machine with images"):
        open_run(runs[0])


HOSTILE = """
import socket, sys, time
import flwr.client
from flwr.common import Code, FitRes, Parameters, Status

class Hostile(flwr.client.Client):
    def fit(self, ins):
        sent = Parameters(tensors=[b"PK\\x03\\x04aaaa"], tensor_type="numpy.ndarray")
        return FitRes(Status(Code.OK, ""), sent, 5, {"loss": 0.1})

host, port = sys.argv[1].split(":")
while socket.socket().connect_ex((host, int(port))):
    time.sleep(0.2)
flwr.client.start_client(server_address=sys.argv[1], client=Hostile(), insecure=True)
"""


@pytest.mark.full
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason='Flower is not installed: "dpd-distill[fed]"')
def test_an_answer_that_is_no_update_ends_the_tuning_for_all(
    tmp_path: Path, process_environment: Mapping[str, str]
) -> None:
    address = _free_address()
    base, scenes = tiny_base(tmp_path), drawn_scenes(tmp_path / "all")
    names = ",".join(sorted(path.name for path in scenes.iterdir()))
    home = _home(process_environment, tmp_path)
    server: list[object] = [address, "--clients", 2, "--rounds", 2, "--classes", names]
    few = [*SMALL, "--base", base, "--tuning", f"federated:{address}", "--out", tmp_path / "run"]
    server += ["--base", base, "--steps", 4, "--batch", 4, "--out", tmp_path / "common"]
    ours = [
        _started(home, "federate", *server),
        _started(home, "train", scenes, *few, "--cache-dir", tmp_path / "cache"),
    ]
    hostile = subprocess.Popen([sys.executable, "-c", HOSTILE, address], env=home, stderr=subprocess.DEVNULL)
    try:
        errors = [process.communicate(timeout=120)[1] for process in ours]
    finally:
        for process in (*ours, hostile):
            process.kill()
    assert [process.returncode for process in ours] == [3, 5], errors
    assert "sent what is no array of an update" in errors[0].splitlines()[-1]
    assert "start all again" in errors[1].splitlines()[-1]


@pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed")
def test_without_flower_the_extra_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"flwr.*\[fed\]"):
        open_named("dpd.tuning", "federated:10.0.0.1:8080", "--tuning")
