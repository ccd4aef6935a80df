from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ablate.studies import energy


@pytest.fixture
def zones(tmp_path, monkeypatch):
    """`zones(name=(joules, turn))` sets the processors' counters; there is no GPU."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setitem(sys.modules, "pynvml", None)

    def put(**counters):
        for number, (name, (joules, turn)) in enumerate(counters.items()):
            zone = tmp_path / "powercap" / f"intel-rapl:{number}"
            zone.mkdir(parents=True, exist_ok=True)
            (zone / "name").write_text(name.replace("_", "-") + "\n")
            (zone / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
            (zone / "max_energy_range_uj").write_text(f"{turn * 1e6:.0f}\n")

    return put


def test_packages_are_counted_across_a_turn_and_their_parts_are_not(zones):
    zones(package_0=(90.0, 100.0), dram=(5.0, 100.0))
    counters = energy.Counters()
    zones(package_0=(97.0, 100.0), dram=(50.0, 100.0))
    counters.read()
    zones(package_0=(4.0, 100.0), dram=(60.0, 100.0))
    counters.read()
    assert counters.joules == {"intel-rapl:0 package-0": pytest.approx(14.0)}


def test_sessions_add_up_and_nothing_is_written_without_counters(tmp_path, zones):
    with energy.metered(tmp_path):
        pass
    assert not (tmp_path / energy.FILE).exists()
    assert energy.recorded(tmp_path) == {}
    for joules in (10.0, 30.0):
        zones(package_0=(joules, 1e5))
        with energy.metered(tmp_path):
            zones(package_0=(joules + 2.5, 1e5))
    assert energy.recorded(tmp_path) == {"processors": pytest.approx(5.0)}


def test_a_counter_that_may_not_be_read_is_absent(tmp_path, zones):
    (tmp_path / "powercap" / "intel-rapl:0").mkdir(parents=True)
    (tmp_path / "powercap" / "intel-rapl:0" / "name").write_text("package-0")
    (tmp_path / "powercap" / "intel-rapl:0" / "energy_uj").mkdir()  # no reader has the right to it
    assert energy.Counters().joules == {}


def test_gpus_are_counted_by_nvml(monkeypatch, tmp_path):
    used = iter([1000, 5000])
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=lambda card: next(used),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    counters = energy.Counters()
    counters.read()
    assert counters.joules == {"GPU 0": pytest.approx(4.0)}
