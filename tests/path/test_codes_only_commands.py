"""A codes-only bundle as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import Done
from tests.commands import dpd as run_dpd
from tests.drawn import codes_only

pytest.importorskip("onnxruntime")
Dpd = Callable[..., Done]


@pytest.fixture
def dpd(tmp_path: Path, process_environment: dict[str, str]) -> Dpd:
    """Runs a command beside codes.dpd, which holds 12 codes of each class."""
    codes_only(tmp_path / "codes.dpd")

    def run(*arguments: str, code: int = 0) -> Done:
        done = run_dpd(arguments, process_environment, tmp_path)
        assert done.returncode == code, done.stderr
        return done

    return run


def test_info_says_what_it_holds_and_how_much_it_makes(dpd: Dpd) -> None:
    said = dpd("info", "codes.dpd").stdout
    assert "codes-only  no UNet, text encoder or judges; at most --ipc 12, all of them decoded" in said
    assert "\nsampler" not in said
    assert json.loads(dpd("info", "codes.dpd", "--json").stdout)["codes_only"] is True


def test_verify_replays_the_codes(dpd: Dpd) -> None:
    assert "from the bundle's codes" in dpd("verify", "codes.dpd").stdout
    golden = json.loads(dpd("verify", "codes.dpd", "--json").stdout)["golden"]
    assert golden["psnr_db"] > 60
    assert (golden["images"], golden["noise_matches"], golden["latents_error"]) == (2, None, None)


def test_generate_makes_codes_and_refuses_the_rest_in_one_line(dpd: Dpd, tmp_path: Path) -> None:
    made = json.loads(dpd("generate", "codes.dpd", "--ipc", "2", "--out", "set", "--json").stdout)
    assert (made["images"], made["network_calls"]) == (20, 0)
    for options, words in (
        (("--ipc", "13"), ("ipc is 13", "ask for at most 12", "without --codes-only")),
        (("--steps", "4"), ("--steps, --solver", "holds no UNet", "without --codes-only")),
        (("--soft-labels",), ("--soft-labels", "no teacher", "without --codes-only")),
    ):
        (line,) = dpd("generate", "codes.dpd", *options, "--out", "other", code=2).stderr.splitlines()
        assert [word for word in words if word not in line] == []
    assert not (tmp_path / "other").exists()


def test_doctor_and_bench_run_the_decoder(dpd: Dpd) -> None:
    assert "ran vae_decoder/model.onnx of codes" in dpd("doctor", "codes.dpd").stdout
    said = dpd("bench", "codes.dpd", "--blocks", "1").stdout
    assert "sampled      none: the bundle makes no such images" in said
    assert "of the decoded images, in batches of 10 latents:" in said
