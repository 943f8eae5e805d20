"""A stand-in for `unmask train`: makes steps, writes metrics.jsonl, saves and ends on SIGTERM, and fails where told to.

python stand_in_train.py PLACE OBJECTIVE SIZE STEPS BATCH LENGTH SEED
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    place = Path(sys.argv[1])
    objective, size = sys.argv[2:4]
    steps, batch, length, seed = map(int, sys.argv[4:8])
    place.mkdir(parents=True, exist_ok=True)
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    (place / "config.json").write_text(json.dumps({"objective": objective, "size": size, "seed": seed}))
    (place / "threads").write_text(os.environ.get("OMP_NUM_THREADS", ""))
    (place / "gpus").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    with (place / "began").open("a") as file:
        file.write(f"{time.time()}\n")
    fails = place / "fails"  # how often it is still to fail
    if fails.exists() and int(fails.read_text()) > 0:
        fails.write_text(str(int(fails.read_text()) - 1))
        print("unmask: error: the loss is not finite", file=sys.stderr)
        sys.exit(1)
    metrics = place / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    pause = float(os.environ.get("STAND_IN_PAUSE", "0.0"))
    with metrics.open("a") as file:
        for step in range(done + 1, 6):
            file.write(json.dumps({"kind": "train", "step": step * steps // 5, "loss": 5.0 - 0.1 * step}) + "\n")
            file.flush()
            time.sleep(pause)
            if stopped:
                return
        end = {"kind": "end", "step": steps, "tokens": steps * batch * length, "objective": objective, "size": size}
        file.write(json.dumps({**end, "loss": 4.5, "params": 1, "flop_convention": "6nd", "seconds": 1.0}) + "\n")
    (place / "ended").write_text(str(time.time()))


if __name__ == "__main__":
    main()
