"""How far the chunks of `ablate enhance` are from the whole recording, and what a long file costs.

    python benchmarks/enhance_chunks.py CHECKPOINT --clean DIR --noisy DIR --seconds 120
    python benchmarks/enhance_chunks.py CHECKPOINT --long-minutes 30

The first form joins utterances to one recording, enhances it whole and in chunks, and prints the level of the
difference below the enhanced speech (dB) and the PESQ-WB of both, as the mean over pieces of 10 s. The second
enhances a file of noise of that length in a process of its own and prints its peak memory and its seconds
of work per second of audio; exit code 1 above 2 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn

from ablate.training.audio import SAMPLE_RATE
from ablate.training.checkpoint import load_model
from ablate.training.enhance import CHUNK_SECONDS, OVERLAP_SECONDS, enhance_blocks
from ablate.training.evaluate import device_of, enhance_batch
from ablate.training.metrics import score_with_errors
from ablate.training.metrics.files import pair_paths, read_pair

MOST_BYTES = 2e9
CUTS = (
    (5.0, 1.0),
    (10.0, 1.0),
    (CHUNK_SECONDS, 1.0),
    (CHUNK_SECONDS, OVERLAP_SECONDS),
    (40.0, 2.0),
)
"""Chunk and overlap in seconds."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--clean", type=Path, help="folder of clean files")
    parser.add_argument("--noisy", type=Path, help="folder of the same names")
    parser.add_argument("--seconds", type=float, default=120, help="of the joined recording")
    parser.add_argument("--long-minutes", type=float, help="enhance a file of this length")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    arguments = parser.parse_args()
    if arguments.long_minutes:
        result = long_file(arguments.checkpoint, arguments.long_minutes)
        print(f"{arguments.long_minutes:g} minutes: peak {result['peak_bytes'] / 1e9:.2f} GB, ", end="")
        print(f"{result['real_time_factor']:.3f} s of work per second")
        code = 0 if result["peak_bytes"] <= MOST_BYTES else 1
    elif arguments.clean and arguments.noisy:
        model = load_model(arguments.checkpoint)
        result = deviation(model, *joined(arguments.clean, arguments.noisy, arguments.seconds))
        print(f"whole recording of {result['seconds']:.0f} s: PESQ-WB {result['pesq_whole']:.3f}")
        print(f"{'chunk':>8}{'overlap':>9}{'difference':>12}{'PESQ-WB':>9}")
        for row in result["cuts"]:
            print(f"{row['chunk']:7g}s{row['overlap']:8g}s{row['decibels']:9.1f} dB{row['pesq']:9.3f}")
        code = 0
    else:
        parser.error("give --clean and --noisy, or --long-minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))
    return code


def joined(clean: Path, noisy: Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Utterances of two folders one after the other: (sample,) each."""
    signals: list[tuple[np.ndarray, np.ndarray]] = []
    length = 0
    for pair in pair_paths(clean, noisy).pairs:
        if length >= seconds * SAMPLE_RATE:
            break
        signals.append(read_pair(pair)[:2])
        length += len(signals[-1][0])
    return np.concatenate([c for c, _ in signals]), np.concatenate([n for _, n in signals])


def deviation(model: nn.Module, clean: np.ndarray, noisy: np.ndarray) -> dict:
    """Chunked against whole, for several cuts."""
    recording = noisy.astype(np.float32)
    (whole,) = enhance_batch(model, [recording], lambda enhanced, _: enhanced, device_of(model))
    rows = []
    for chunk, overlap in CUTS:
        pieces = enhance_blocks(
            model,
            [recording[:, None]],
            finish=lambda waveform: waveform,
            chunk=round(chunk * SAMPLE_RATE),
            overlap=round(overlap * SAMPLE_RATE),
        )
        cut = np.concatenate(list(pieces))[:, 0]
        decibels = 10 * np.log10(np.square(whole).sum() / np.square(whole - cut).sum())
        rows.append(
            {"chunk": chunk, "overlap": overlap, "decibels": float(decibels), "pesq": mean_pesq(clean, cut)}
        )
    return {"seconds": len(noisy) / SAMPLE_RATE, "pesq_whole": mean_pesq(clean, whole), "cuts": rows}


def mean_pesq(clean: np.ndarray, enhanced: np.ndarray) -> float:
    """Mean PESQ-WB over pieces of 10 s."""
    step = 10 * SAMPLE_RATE
    return float(
        np.mean(
            [
                score_with_errors(
                    clean[k : k + step], enhanced[k : k + step], SAMPLE_RATE, ["pesq_wb"]
                ).values["pesq_wb"]
                for k in range(0, len(clean) - step + 1, step)
            ]
        )
    )


def long_file(checkpoint: Path, minutes: float) -> dict:
    """Peak memory and speed of one `ablate enhance` of a long file of noise, 48 kHz stereo."""
    rate = 48_000
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "long.wav"
        random = np.random.default_rng(0)
        with soundfile.SoundFile(source, "w", rate, 2, subtype="PCM_16") as file:
            for _ in range(round(minutes * 60)):
                file.write(0.1 * random.standard_normal((rate, 2)))
        command = [
            sys.executable,
            "-P",
            "-c",
            "from ablate.reports.cli import main; main()",
            "enhance",
            source,
        ]
        started = time.perf_counter()
        subprocess.run(
            [*map(str, command), source, "-o", f"{folder}/out", "--checkpoint", checkpoint], check=True
        )
        seconds = time.perf_counter() - started
        written, expected = (soundfile.info(p).frames for p in (f"{folder}/out/long.wav", source))
        if written != expected:
            raise RuntimeError(f"{written} samples written for {expected}")
    return {
        "minutes": minutes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
        "real_time_factor": seconds / (minutes * 60),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    sys.exit(main())
