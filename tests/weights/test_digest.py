"""Digests of files and weights: pins, and what a folder is known by."""

import hashlib

import pytest

from stages.core.cli import UserError
from stages.text.encoder import Encoder
from stages.text.settings import EncoderParams
from stages.weights.digest import check_digest, identity, of_file, of_files, served


@pytest.fixture
def files(tmp_path):
    """Two files of weights."""
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    one.write_bytes(b"weights")
    two.write_bytes(b"more")
    return one, two


def test_a_file_has_the_digest_that_others_compute_too(files):
    assert of_file(files[0]) == hashlib.sha256(b"weights").hexdigest()


def test_several_files_are_known_by_what_they_hold_in_order(files):
    both = hashlib.sha256(hashlib.sha256(b"weights").digest() + hashlib.sha256(b"more").digest()).hexdigest()
    assert of_files(files) == both == identity(files[0].parent) != of_files(files[::-1])
    (files[0].parent / "model.gguf").write_bytes(b"served")
    assert served(files[0].parent) == [files[0].parent / "model.gguf"], "the GGUF answers where there is one"
    assert identity(files[0].parent) == of_files(served(files[0].parent)) != both


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="holds neither"):
        identity(tmp_path)


def test_a_pin_of_one_file_of_several_and_of_none(files, capsys):
    one, two = files
    check_digest([one], "", "base_model")
    check_digest([one], hashlib.sha256(b"weights").hexdigest(), "base_model")
    with pytest.raises(UserError, match=r"1\.safetensors .* pins abc"):
        check_digest([one], "abc", "base_model")
    check_digest([two, one], "", "encoder")
    both = capsys.readouterr().err.split()[-1]
    check_digest([one, two], both, "encoder")
    two.write_bytes(b"other")
    with pytest.raises(UserError, match=r"encoder\.sha256: 1\.safetensors and 1 more"):
        check_digest([one, two], both, "encoder")
    with pytest.raises(UserError, match="no safetensors weights"):
        check_digest([], "", "encoder")


@pytest.mark.slow
def test_the_encoder_has_the_pinned_weights(project):
    pinned = project.params.encoder
    given = {"model": pinned.model, "revision": "", "batch_size": 8}
    with pytest.raises(UserError, match=r"encoder\.sha256: model\.safetensors has .* pins 0000"):
        Encoder(EncoderParams(**given, sha256="0" * 64))
    assert Encoder(EncoderParams(**given, sha256=pinned.sha256))(["a boat"]).shape == (1, 384)
