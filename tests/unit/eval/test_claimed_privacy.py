"""A bundle that claims differential privacy, in the report: the claim stands where the audit's verdict would."""

from pathlib import Path

from dpd_eval.report import write_report
from tests.drawn import codes_only
from tests.hostile.test_privacy_claim import claiming


def page(folder: Path, bundle: Path) -> str:
    write_report([bundle], folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_claim_is_shown_and_not_that_an_audit_is_missing(tmp_path: Path) -> None:
    text = page(tmp_path, claiming(tmp_path / "private.dpd"))
    assert text.count("(2, 1e-05)-differential privacy of one image") == 2
    assert "which nothing here can check" in text
    assert "No privacy audit" not in text


def test_another_bundle_claims_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, codes_only(tmp_path / "codes.dpd", codes=2))
    assert "differential privacy" not in text
    assert "No privacy audit" in text
