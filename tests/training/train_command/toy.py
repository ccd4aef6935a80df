"""A training that trains nothing: it makes the noisy test files quieter, or goes wrong as it is told to."""

import argparse
import array
import json
import os
import random
import signal
import subprocess
import sys
import time
import wave

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--out", required=True)
parser.add_argument("--data", required=True)
parser.add_argument("--gain", type=float, default=0.9)
parser.add_argument("--mode", default="well")
parser.add_argument("--resume")
options = parser.parse_args()
mode = options.mode

random.seed(0 if mode == "forgetful" else options.seed)
print(f"seed {options.seed}, mode {mode}, resumed from {options.resume}", flush=True)
with open(f"{options.out}/called.txt", "a") as file:
    file.write(f"{options.resume or '-'}\n")
if mode == "broken-resume" and options.resume:
    raise EOFError("latest.pt is cut off")
with open(f"{options.out}/metrics.jsonl", "a") as file:
    for step in (10, 20):
        loss = float("nan") if mode == "nan" and step == 20 else random.random()
        file.write(json.dumps({"step": step, "train/loss": loss, "val/pesq_wb": 1 + loss}) + "\n")
with open(f"{options.out}/latest.pt", "w") as file:
    file.write("weights")

if mode == "failing":
    raise ValueError("the learning rate is a fish")
if mode == "memory":
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    sys.exit(1)
if mode in ("SIGSEGV", "SIGKILL"):
    os.kill(os.getpid(), getattr(signal, mode))
if mode.startswith("polite"):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(mode.removeprefix("polite"))))
if mode.startswith(("waiting", "stubborn", "polite")) and not options.resume:
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    with open(f"{options.out}/pids.tmp", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(f"{options.out}/pids.tmp", f"{options.out}/pids")
    time.sleep(600)
if mode == "silent":
    sys.exit(0)

folder = "enhanced" if mode == "elsewhere" else f"{options.out}/enhanced"
os.makedirs(folder, exist_ok=True)
for number, name in enumerate(sorted(os.listdir(f"{options.data}/test/noisy"))):
    if mode == "partial" and number:
        break
    with wave.open(f"{options.data}/test/noisy/{name}") as noisy:
        form, samples = noisy.getparams(), array.array("h", noisy.readframes(noisy.getnframes()))
    quieter = array.array("h", (int(options.gain * s + random.uniform(-50, 50)) for s in samples))
    with wave.open(f"{folder}/{name}", "w") as enhanced:
        enhanced.setparams(form)
        enhanced.writeframes((quieter[: len(quieter) // 2] if mode == "short" else quieter).tobytes())
with open(f"{options.out}/scores.csv", "w") as file:
    file.write("utterance,pesq_wb,extra\n")
    for name in sorted(os.listdir(f"{options.data}/test/noisy")):
        value = "nan" if mode == "nan-scores" else f"{2 + random.random()}"
        file.write(f"{name.removesuffix('.wav')},{value},x\n")
