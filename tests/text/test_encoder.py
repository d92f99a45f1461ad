"""The sentence encoder, and ranks and means of its vectors."""

import numpy as np
import pytest
from conftest import ROOT
from fakes import section, unit

from stages.core.cli import UserError
from stages.text import encoder
from stages.text.settings import EncoderParams


def test_equal_cosines_rank_in_the_middle():
    pool = np.eye(3, dtype=np.float32)
    assert encoder.nearest_rank(np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32), pool, [0, 1]) == [1, 2]


def test_the_mean_so_far_is_a_unit_vector():
    found = encoder.so_far(unit([[1, 0], [0, 1]]))
    assert found == pytest.approx(unit([[1, 0], [1, 1]]))


class Model:
    """Counts what it is to embed."""

    def __init__(self):
        self.batches = []

    def get_embedding_dimension(self):
        return 3

    def encode(self, texts, **_):
        self.batches.append(texts)
        return np.array([[len(t), 0, 0] for t in texts])


def test_each_text_is_embedded_once_and_many_by_length(monkeypatch):
    model = Model()
    monkeypatch.setattr(encoder, "_load", lambda *_: model)
    encode = encoder.Encoder(EncoderParams(model="x", revision="", sha256="", batch_size=1))
    assert encode([]).shape == (0, 3)
    assert encode(["b", "a", "b"]).tolist() == [[1, 0, 0]] * 3 and encode(["a"]).shape == (1, 3)
    assert model.batches == [["b", "a"]]
    texts = ["x" * n for n in range(2, 20)]
    assert encode(texts)[:, 0].tolist() == [*range(2, 20)]
    assert [len(t) for batch in model.batches[1:] for t in batch] == [*range(19, 1, -1)]
    assert [len(batch) for batch in model.batches[1:]] == [16, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"model": "package:no_such_package"}, "package no_such_package is not installed; run make setup"),
        ({"model": str(ROOT / "tests")}, "encoder: has no safetensors weights"),
    ],
)
def test_what_is_no_encoder_is_named(changes, fault):
    with pytest.raises(UserError, match=fault):
        encoder.Encoder(section(EncoderParams, "encoder", **changes))
