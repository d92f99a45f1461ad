"""The exact greedy filter beside the matrix products it cannot avoid and beside semhash.

100,000 unit vectors of 384 dimensions, a third of them near-duplicates (cosine 0.9) of earlier ones, threshold 0.8. The bare
products are those of every block of candidates with everything kept before it and with itself, with nothing done to them.

Run: python -m benchmarks.filter [--candidates 100000]   (semhash goes into an environment of its own under .cache/)
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from stages.text.dedup import BLOCK, COLUMNS, Kept

DIM, THRESHOLD = 384, 0.8
SEMHASH = """
import json, sys, time
import numpy as np
from semhash import SemHash
vectors = np.load(sys.argv[1])
class Ready:  # an encoder that hands out the vectors by number
    def encode(self, texts, **_):
        return vectors[[int(t) for t in texts]]
hashed = SemHash.from_records([str(i) for i in range(len(vectors))], model=Ready())
start = time.monotonic()
kept = hashed.self_deduplicate(threshold=float(sys.argv[2])).selected
print(json.dumps([time.monotonic() - start, [int(k) for k in kept]]))
"""


def candidates(n: int) -> np.ndarray:
    """[n, DIM] unit float32."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, DIM), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for i in np.flatnonzero(rng.random(n) < 1 / 3):
        if i:
            noise = rng.standard_normal(DIM).astype(np.float32)
            source = x[rng.integers(i)]
            noise -= (noise @ source) * source
            x[i] = 0.9 * source + np.sqrt(1 - 0.81) * noise / np.linalg.norm(noise)
    return x


def bare(x: np.ndarray, kept: list[int]) -> float:
    """Seconds of the products alone."""
    rows, order = x[kept], np.asarray(kept)
    start = time.monotonic()
    for begin in range(0, len(x), BLOCK):
        block = x[begin : begin + BLOCK]
        before = int(np.searchsorted(order, begin))
        for column in range(0, before, COLUMNS):
            block @ rows[column : min(column + COLUMNS, before)].T
        block @ block.T
    return time.monotonic() - start


def semhash(x: np.ndarray) -> tuple[float, set[int]] | str:
    """(seconds, what it keeps), or why there is no figure."""
    env = Path(".cache/bench-semhash")
    file = Path(".cache/bench-vectors.npy")
    file.parent.mkdir(exist_ok=True)
    np.save(file, x)
    try:
        if not (env / ".done").exists():
            subprocess.run([sys.executable, "-m", "venv", env], check=True)
            subprocess.run([env / "bin/pip", "install", "-q", "semhash"], check=True, stderr=subprocess.DEVNULL)
            (env / ".done").touch()
        done = subprocess.run(
            [env / "bin/python", "-c", SEMHASH, file, str(THRESHOLD)], capture_output=True, text=True, check=True
        )
    except subprocess.CalledProcessError as e:
        return (e.stderr or str(e)).strip().splitlines()[-1]
    finally:
        file.unlink(missing_ok=True)
    seconds, kept = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(kept)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--candidates", type=int, default=100_000)
    x = candidates(p.parse_args().candidates)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    start = time.monotonic()
    kept = Kept(DIM).offer(x, THRESHOLD)
    ours = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    products = bare(x, kept)
    print(f"{len(x)} candidates, {len(kept)} kept")
    print(f"ours            {ours:7.1f} s  peak {peak:.0f} MB ({peak - before:.0f} above the candidates)")
    print(f"bare products   {products:7.1f} s  ours / bare = {ours / products:.2f}")
    other = semhash(x)
    if isinstance(other, str):
        print(f"semhash         no figure: {other}")
        return
    seconds, theirs = other
    wrong, missed = len(theirs - set(kept)), len(set(kept) - theirs)
    print(f"semhash         {seconds:7.1f} s  {seconds / ours:.1f} x ours; keeps {wrong} wrongly, drops {missed} wrongly")


if __name__ == "__main__":
    main()
