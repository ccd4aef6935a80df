"""A training by each way of giving it a configuration, which goes well or wrong in each way of the contract.

`program.py STYLE ...`: `argparse` and `hydra` take words, `yaml` and `config` a file, `env` variables;
`config` enhances nothing, which `test` does after it; `launcher` starts two ranks in sessions of their own
and hides what they say behind its own words, as torchrun does.
"""

import array
import json
import os
import random
import subprocess
import sys
import time
import wave
from pathlib import Path

STEPS = 12


def settings(style, words):
    """What the program is given: seed, out, data, and its own `mode`, `gain`, `nap`, `resume`."""
    if style in ("argparse", "launcher"):
        return dict(word.removeprefix("--").split("=", 1) for word in words)
    if style == "hydra":
        return dict(word.split("=", 1) for word in words)
    if style in ("config", "test"):
        given, words = json.loads(Path(words[0]).read_text()), words[1:]
    elif style == "yaml":
        lines = Path(words[0]).read_text().splitlines()
        given, words = dict(line.split(": ", 1) for line in lines), words[1:]
    else:
        given = {name: os.environ[name] for name in ("mode", "gain", "nap") if name in os.environ}
    return {**given, **dict(zip(("seed", "out", "data", "resume"), words, strict=False))}


def launch(words):
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "argparse", *words],
            env=os.environ | {"RANK": str(rank)},
            start_new_session=True,
            close_fds=False,
        )
        for rank in (0, 1)
    ]
    codes = [rank.wait() for rank in ranks]
    if any(codes):
        print("Traceback (most recent call last):\n  File torchrun, line 8", file=sys.stderr)
        print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n=====", file=sys.stderr)
        print(f"program.py FAILED\n  exitcode  : {codes[0] or codes[1]} (pid: 1)\n=====", file=sys.stderr)
    sys.exit(any(codes))


def train(given):
    out, mode = Path(given["out"]), given.get("mode", "well")
    first = os.environ.get("RANK", "0") == "0"
    done = json.loads(Path(given["resume"]).read_text())["step"] if "resume" in given else 0
    if mode == "forking":
        daemon = [
            sys.executable,
            "-c",
            "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)",
        ]
        subprocess.Popen(daemon, close_fds=False)
    if mode == "linking":
        Path("linked", f"{os.getpid()}.txt").write_text("x")
    for step in range(done + 1, STEPS + 1):
        time.sleep(float(given.get("nap", 0)))
        if mode == "failing" and step == 3:
            raise ValueError("the learning rate is a fish")
        if mode == "diverging" and step == 3:
            raise RuntimeError("loss is nan at step 3")
        if mode == "filling" and not done:
            with open(out / "filler", "wb") as file:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
        if first:
            value = random.Random(f"{given['seed']} {step}").random()
            with open(out / "metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step, "train/loss": value, "val/pesq_wb": 1 + value}) + "\n")
            (out / "latest.tmp").write_text(json.dumps({"step": step}))
            (out / "latest.tmp").rename(out / "latest.json")
    return first and mode != "silent"


def enhance(folder, given, ending=""):
    folder.mkdir(exist_ok=True)
    gain, noise = float(given.get("gain", 0.9)), float(given.get("noise", 50))
    draw = random.Random(given["seed"])
    for path in sorted(Path(given["data"], "test", "noisy").iterdir()):
        with wave.open(str(path)) as noisy:
            form, samples = noisy.getparams(), array.array("h", noisy.readframes(noisy.getnframes()))
        with wave.open(str(folder / f"{path.stem}{ending}.wav"), "w") as enhanced:
            enhanced.setparams(form)
            louder = array.array("h", (int(gain * s + draw.uniform(-noise, noise)) for s in samples))
            enhanced.writeframes(louder.tobytes())


if __name__ == "__main__":
    style, *words = sys.argv[1:]
    if style == "launcher":
        launch(words)
    given = settings(style, words)
    if style == "test":
        assert json.loads(Path(given["resume"]).read_text())["step"] == STEPS
        if given["mode"] != "silent":
            enhance(Path(given["out"], "2026-01-01"), given, "_enh")
    elif train(given) and style != "config":
        enhance(Path(given["out"], "enhanced"), given)
