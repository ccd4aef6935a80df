"""The page docs/findings/command.md: a public repository's train.py under `ablate`, as a worked example.

Its numbers come from the scores stored beside the page, its study file is the one that was run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from findings_store import FOLDER, audit_line, facts_of, request, stored

from ablate.ablations.inference.analysis import records
from ablate.ablations.inference.units import carried_lines
from ablate.models.errors import listed, plural
from ablate.reports.build import report_of_file
from ablate.reports.formatting import interval, signed
from ablate.reports.model import AnalysisReport
from ablate.reports.renderers.markdown import table
from ablate.reports.summary import answer
from ablate.training.metrics.registry import label_of

NAME = "denoiser"
"""Of the study: its file and its stored scores."""
GUARDRAILS = ("stoi", "estoi", "csig", "cbak", "covl", "si_sdr")

OPENING = """# A public train.py under ablate

[denoiser](https://github.com/facebookresearch/denoiser) is the code of *Real Time Speech Enhancement in the
Waveform Domain* (Interspeech 2020), configured with Hydra. Its README says that the network is optimised in
the time and in the frequency domain with several losses, and that augmentation of the waveform improves its
quality and how well it generalises. It gives no number for either. Both are switches of its `train.py`, so
a study needs a study file and no wrapper. Here they are toggled at a size that a CPU can train. Every number
below is written by `make findings` from the stored scores.

## The study file

"""
STEPS = """
The commit is 8afd7c1. `augmentation: on` has the values of its `launch_valentini.sh`, and so have the
weights of the STFT loss. The network is smaller (`hidden` 8 instead of 48, no resampling). Today's packages
need two changed lines of its source, `return_complex=False` for `torch.stft` in `denoiser/stft_loss.py` and
`.float()` after `torch.from_numpy` in `denoiser/dsp.py` (NumPy 2 computes these filters in double precision),
and the two variables in the command: its checkpoints hold more than weights, and its calls of torchaudio are
those before the dispatcher. A run without the second line ends with `failed: error: ... RuntimeError: Input
type (torch.FloatTensor) and weight type (torch.DoubleTensor) should be the same`, which names the cause.

denoiser reads lists of files, `[[path, samples], ...]`, which `python -m denoiser.audio FOLDER` prints. The
lists of `egs/vb/valid` hold two speakers of the training set, so that neither the choice of its best weights
nor the scores that it prints see a test file; `noisy_json` names the test files, which it enhances at the
end. `corpus` is a folder in the layout of VoiceBank+DEMAND with the first twelve test files of each speaker.

```text
ablate check study.yaml           # one epoch of one cell: command, scores and curve fit together
ablate run study.yaml --dry-run   # each cell's command, ready to copy
ablate run study.yaml
ablate report
```

"""
LIMITS = """
## What this does not say

The published network is six times as wide and is trained for up to 500 epochs on the whole of
VoiceBank+DEMAND; these cells are far from convergence. Augmentation is meant for long trainings and for
recordings unlike those of the training, and neither is measured here. So the README is neither confirmed
nor contradicted: the example shows what it takes to ask.
"""


def page() -> str:
    """The text of the page."""
    return "".join(_page())


def _report() -> AnalysisReport:
    off = {factor.name: factor.off for factor in request(NAME).factors}
    return report_of_file(stored(NAME), off, guardrails=GUARDRAILS)


def _page() -> Iterator[str]:
    result, facts = _report(), facts_of(NAME)
    yield OPENING
    yield f"```yaml\n{(FOLDER / f'{NAME}.yaml').read_text()}```\n"
    yield STEPS
    yield f"## What came out\n\n{_measured(result, facts)}\n\n**{answer(result)}**\n\n"
    yield table(
        ["effect on PESQ-WB", result.credit_kind, f"{result.percent} interval", "verdict at this size"],
        [[row.name, row.estimate, row.interval or "none yet", row.verdict] for row in result.rows],
    )
    yield table(
        ["cell", "trainings", "PESQ-WB", "interval"],
        [
            [str(c["cell"]), str(c["runs"]), f"{c['mean']:.3f}", interval(c["low"], c["high"])]
            for c in records(result.analysis.cells)
        ],
    )
    noisy, means = result.scores["noisy_pesq_wb"].mean(), result.analysis.cells["mean"]
    below = f"{(means < noisy).sum()} of {plural(len(means), 'cell')}"
    yield f"The noisy recordings have a PESQ-WB of {noisy:.3f}; {below} are still below that.\n\n"
    for factor in request(NAME).factors:
        by_seed = result.scores.pivot_table("pesq_wb", "seed", factor.name, observed=True)
        each = [signed(on - off) for on, off in zip(by_seed["on"], by_seed["off"], strict=True)]
        yield f"By seed, {factor.name} is worth {listed(each)}.\n\n"
    for line in carried_lines(result.analysis.by_unit):
        yield f"{line}\n\n"
    yield "Other metrics:\n\n"
    yield table(
        ["metric", "effect", "on - off", "interval"],
        [
            [label_of(e["metric"]), e["name"], signed(e["estimate"]), interval(e["low"], e["high"])]
            for e in records(result.analysis.guardrails)
        ],
    )
    yield LIMITS


def _measured(result: AnalysisReport, facts: dict[str, Any]) -> str:
    cells, seeds = (result.scores[column].nunique() for column in ("cell", "seed"))
    test = result.scores["utterance"].nunique()
    return (
        f"{facts['scored']} of {facts['planned']} planned runs are scored: {plural(cells, 'cell')}, "
        f"{plural(seeds, 'seed')} each, {plural(test, 'test file')} of "
        f"{plural(result.scores['speaker'].nunique(), 'speaker')}. {audit_line(facts)} It does not see the "
        "network, which is denoiser's."
    )
