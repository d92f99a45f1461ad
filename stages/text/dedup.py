"""The greedy filter: a text is kept if nothing kept before is nearer than a threshold."""

import numpy as np

from stages.text.encoder import Vectors

BLOCK = 2048  # candidates compared at once: 2048 x 8192 cosines are 64 MB
COLUMNS = 8192


class Kept:
    """Vectors kept by the greedy rule: in order of arrival, kept if the greatest cosine to all kept is at most a threshold.

    Blocked matrix products give the same set as one by one: a block of candidates is compared with all that is kept at once,
    and a pass in order settles what those of the block do to each other.
    """

    def __init__(self, dim: int):
        self._rows = np.empty((256, dim), dtype=np.float32)
        self.count = 0

    @property
    def vectors(self) -> Vectors:
        """[count, dim], unit rows."""
        return self._rows[: self.count]

    def nearest(self, vectors: Vectors) -> Vectors:
        """Greatest cosine of each row of `vectors` [n, dim] to anything kept, [n]; -1 where nothing is."""
        best = np.full(len(vectors), -1.0, dtype=np.float32)
        for start in range(0, self.count, COLUMNS):
            np.maximum(best, (vectors @ self._rows[start : min(start + COLUMNS, self.count)].T).max(1), out=best)
        return best

    def offer(self, vectors: Vectors, threshold: float) -> list[int]:
        """Keep what may be kept of unit `vectors` [n, dim]; returns the indices kept, in order."""
        kept: list[int] = []
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            free = np.flatnonzero(self.nearest(block) <= threshold)
            block = block[free]
            near = block @ block.T > threshold
            alive = np.ones(len(block), dtype=bool)
            for i in range(len(block)):
                if alive[i]:
                    alive[i + 1 :] &= ~near[i, i + 1 :]
            self.add(block[alive])
            kept += [int(start + free[i]) for i in np.flatnonzero(alive)]
        return kept

    def add(self, vectors: Vectors) -> None:
        """Keep `vectors` [n, dim] whatever their cosines."""
        needed = self.count + len(vectors)
        if needed > len(self._rows):
            rows = np.empty((max(needed, 2 * len(self._rows)), self._rows.shape[1]), dtype=np.float32)
            rows[: self.count] = self.vectors
            self._rows = rows
        self._rows[self.count : needed] = vectors
        self.count = needed
