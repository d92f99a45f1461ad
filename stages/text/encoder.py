"""Sentence embeddings and what is done with them: unit vectors, so a dot product is the cosine."""

import importlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from stages.core.cli import UserError, one_line
from stages.text.settings import EncoderParams
from stages.weights.digest import check_digest

if TYPE_CHECKING:
    import numpy as np

# quoted, as a stage's --help must not import numpy
Vectors: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
Encode: TypeAlias = Callable[[list[str]], Vectors]
"""Texts -> unit vectors [len(texts), dim]."""

PACKAGE = "package:"
CHUNK = 16  # batches: more texts than these are embedded so many batches at a time


@lru_cache(maxsize=1)
def _load(source: str, revision: str, sha256: str) -> Any:
    from huggingface_hub import snapshot_download
    from sentence_transformers import SentenceTransformer

    folder = Path(source)
    if not folder.is_dir():
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        folder = Path(snapshot_download(source, revision=revision or None, allow_patterns=patterns))
    check_digest([*folder.rglob("*.safetensors")], sha256, "encoder")
    return SentenceTransformer(str(folder), trust_remote_code=False, model_kwargs={"use_safetensors": True})


class Encoder:
    """A sentence encoder; every text is embedded once, however often it is asked for.

    Raises:
        UserError: the model cannot be loaded, or has another digest than the pinned one.
    """

    def __init__(self, params: EncoderParams):
        source = params.model
        if source.startswith(PACKAGE):
            name = source.removeprefix(PACKAGE)
            try:
                source = str(Path(importlib.import_module(name).__file__ or "").parent / "model")
            except ImportError:
                raise UserError(f"encoder.model: package {name} is not installed; run make setup") from None
            os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            self._model = _load(source, params.revision, params.sha256)
        except UserError:
            raise
        except Exception as e:
            raise UserError(f"encoder.model: {params.model} cannot be loaded: {one_line(e)}") from None
        self._batch = params.batch_size
        self._known: dict[str, Any] = {}

    def __call__(self, texts: list[str]) -> Vectors:
        """[len(texts), dim] float32 unit vectors."""
        import numpy as np

        new = list(dict.fromkeys(t for t in texts if t not in self._known))
        size = CHUNK * self._batch
        if len(new) > size:  # texts of like lengths together, the same ones wherever they are embedded
            new.sort(key=lambda text: (-len(text), text))
        for start in range(0, len(new), size):
            chunk = new[start : start + size]
            self._known.update(zip(chunk, self._embed(chunk), strict=True))
        if not texts:
            return np.zeros((0, self._model.get_embedding_dimension() or 0), dtype=np.float32)
        return np.stack([self._known[t] for t in texts])

    def _embed(self, texts: list[str]) -> Vectors:
        import numpy as np

        vectors = self._model.encode(texts, batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def nearest_rank(queries: Vectors, pool: Vectors, right: list[int]) -> list[int]:
    """For each query [n, dim] the 1-based rank of row `right[i]` of `pool` [m, dim] by cosine; equal cosines count half,
    rounded up."""
    import numpy as np

    cosines = queries @ pool.T
    own = cosines[np.arange(len(right)), right][:, None]
    higher = (cosines > own).sum(1)
    equal = (cosines == own).sum(1) - 1
    return [int(r) for r in 1 + higher + (equal + 1) // 2]


def so_far(vectors: Vectors) -> Vectors:
    """Unit mean of the rows up to each one, [n, dim] -> [n, dim]: all that was written by then.

    Joined to one text, two or three turns of a capable model would exceed the 256 tokens that the encoder reads.
    """
    import numpy as np

    sums = np.cumsum(vectors, axis=0, dtype=np.float32)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)
