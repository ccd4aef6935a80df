from __future__ import annotations

import io
from dataclasses import replace

import pytest

from ablate.reports.heterogeneity import mixed, mixture_lines
from ablate.reports.renderers import write


def computed(report, says):
    """A report whose runs were computed by `says(run)`."""
    runs = [replace(run, summary={**run.summary, **says(run)}) for run in report.info.runs]
    return replace(report, info=replace(report.info, runs=runs))


def on_device(run):
    return {"device_name": "H100" if "crossband=bilstm" in run.cell else "EPYC"}


def confounded(report):
    return {fact: {(c.kind, c.name) for c in contrasts} for fact, _, contrasts in mixed(report)}


def test_runs_that_agree_mix_nothing(report):
    same = computed(report, lambda run: {"device_name": "H100", "precision": "bf16"})
    assert mixed(same) == []
    assert mixture_lines(same) == []


@pytest.mark.parametrize("format", ["md", "csv", "json", "checklist"])
def test_a_contrast_across_devices_is_named_in_every_form(report, format):
    out = io.StringIO()
    write(computed(report, on_device), format, out)
    if format == "csv":
        (row,) = [r for r in out.getvalue().splitlines() if r.startswith("pesq_wb,crossband,main")]
        assert row.endswith(",device")
    else:
        told = " ".join(out.getvalue().split())
        assert "EPYC" in told
        assert "device" in told


def test_only_contrasts_with_unequal_sides_are_confounded(report):
    found = confounded(computed(report, on_device))["device"]
    assert {("main", "crossband"), ("shapley", "crossband")} <= found
    assert ("main", "bidirectional") not in found
    by_seed = computed(report, lambda run: {"precision": "bf16" if run.seed == 1 else "fp32"})
    assert confounded(by_seed) == {"precision": set()}
    assert "both sides have equal shares" in mixture_lines(by_seed)[0]


def test_a_network_without_a_scan_is_no_other_backend(report):
    def says(run):
        both = "bidirectional=on" in run.cell
        return {"scan_backend": None if "crossband=pointwise" in run.cell else "triton" if both else "numba"}

    found = confounded(computed(report, says))["scan backend"]
    assert ("main", "bidirectional") in found
    assert ("main", "crossband") not in found
