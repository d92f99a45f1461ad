"""In place of the library, for processes of tests that run commands: its import takes longer than all else that they do.

test_end_to_end.py, test_frozen.py and the tests of stages run the real one.
"""

import zlib

import numpy as np


class SentenceTransformer:
    """A vector drawn for each text."""

    def __init__(self, folder: str, **_):
        self.folder = folder

    def get_embedding_dimension(self) -> int:
        return 64

    def encode(self, texts: list[str], **_) -> np.ndarray:
        drawn = np.stack([np.random.default_rng(zlib.crc32(t.encode())).normal(size=64) for t in texts])
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
