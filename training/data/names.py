"""What the names of files and the logs beside them tell of speakers, noises and signal-to-noise ratios."""

from __future__ import annotations

import re
from pathlib import Path


def speakers_of(names: list[str]) -> dict[str, str]:
    """Speaker by name: what stands before the first `_`, where names are made so.

    One common word before `_`, without a digit, is no speaker (`fileid_17`).
    """
    speakers = {name: name.partition("_")[0] for name in names if "_" in name[1:]}
    heads = set(speakers.values())
    if len(speakers) < len(set(names)) or (len(heads) == 1 and not any(c.isdigit() for c in min(heads))):
        return {}
    return speakers


def read_logs(root: Path, split: str) -> dict[str, tuple[str, float]]:
    """Noise and SNR (dB) by name, of lines `name noise snr` in `log_<split>set*.txt`."""
    rows: dict[str, tuple[str, float]] = {}
    for path in sorted([*root.glob(f"log_{split}set*.txt"), *root.glob(f"*/log_{split}set*.txt")]):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = re.fullmatch(r"\s*(\S+)\s+(\S+)\s+(-?\d+(?:\.\d+)?)(?:\s*dB)?\s*", line)
            if match:
                rows.setdefault(match[1], (match[2], float(match[3])))
    return rows
