"""Sentence embeddings and what is done with them: unit vectors, so a dot product is the cosine."""

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.common.errors import UserError, one_line

if TYPE_CHECKING:
    import numpy as np

    Vectors = np.ndarray[Any, np.dtype[np.float32]]

PACKAGE = "package:"


@dataclass
class EncoderParams:
    """Section `encoder`: `package:NAME` (weights inside an installed package), a Hub id or a local folder."""

    model: str
    batch_size: int


@lru_cache(maxsize=1)
def _load(source: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(source, trust_remote_code=False)


class Encoder:
    """A sentence encoder; every text is embedded once however often it is asked for."""

    def __init__(self, params: EncoderParams):
        import os

        source = params.model
        if source.startswith(PACKAGE):
            name = source.removeprefix(PACKAGE)
            try:
                source = str(Path(importlib.import_module(name).__file__ or "").parent / "model")
            except ImportError:
                raise UserError(f"encoder.model: package {name} is not installed; run make setup") from None
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            self._model = _load(source)
        except Exception as e:
            raise UserError(f"encoder.model: {params.model} cannot be loaded: {one_line(e)}") from None
        self._batch = params.batch_size
        self._known: dict[str, Any] = {}

    def __call__(self, texts: list[str]) -> "Vectors":
        """[len(texts), dim] float32 unit vectors."""
        import numpy as np

        new = list(dict.fromkeys(t for t in texts if t not in self._known))
        if new:
            vectors = self._model.encode(new, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)
            self._known.update(zip(new, np.asarray(vectors, dtype=np.float32), strict=True))
        if not texts:
            return np.zeros((0, self._model.get_sentence_embedding_dimension() or 0), dtype=np.float32)
        return np.stack([self._known[t] for t in texts])


def nearest_rank(queries: "Vectors", pool: "Vectors", right: list[int]) -> list[int]:
    """For each query the 1-based rank of pool row `right[i]` by cosine; equal cosines count half, rounded up."""
    import numpy as np

    cosines = queries @ pool.T
    own = cosines[np.arange(len(right)), right][:, None]
    higher = (cosines > own).sum(1)
    equal = (cosines == own).sum(1) - 1
    return [int(r) for r in 1 + higher + (equal + 1) // 2]
