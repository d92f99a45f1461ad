"""The pages: every command in them is run, links and names in them lead somewhere.

A command is one of three: its page is walked here, top to bottom, in a small repository; its page has tests of its own,
which see to it that none is left out; or NOT_RUN says why no test runs it. All of them are given in dry form, too.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pages
import pytest
from closure import closure
from conftest import ROOT, Done, Project
from omegaconf import DictConfig, OmegaConf
from pages import PAGES, blocks, commands, inline, section
from repository import PEOPLE, commit, jsonl, ran, repository, sh, shell
from test_chat import streamed

from stages.common import params, preset

NOT_RUN = {
    "is the whole pipeline or all tests: tests/test_end_to_end.py, .ci/run": (
        "make repro",
        "make test",
        "make rehearsal",
    ),
    "plans 3,210 trees, a minute: tests/test_preset.py plans a smaller preset": ("make plan PRESET=paper",),
    "asks a paid API, wants a GPU": (
        "dvc exp run --name paper $(python -m stages.common.preset paper)",
        "dvc exp run --name paper-b $(python -m stages.common.preset paper) -S dpo.beta=0.1",
    ),
    "wants eight GPUs": (
        "dvc exp run -S train.accelerate_config=presets/accelerate/fsdp8.yaml -S train.lora_rank=0 -S train.dtype=bfloat16 "
        "-S train.gguf=none -S train.attention=flex_attention -S sft.batch_size=2 -S sft.accumulation=24 "
        "-S dpo.batch_size=2 -S dpo.accumulation=24",
    ),
    "starts several processes: tests/test_training.py does, with this file": (
        "dvc exp run -S train.accelerate_config=presets/accelerate/cpu2.yaml -S sft.batch_size=2 -S sft.accumulation=2 "
        "-S dpo.batch_size=2 -S dpo.accumulation=2",
    ),
    "reaches the Hub": (
        "dvc exp run -S base_model.source=Qwen/Qwen2-7B-Instruct -S base_model.revision=COMMIT "
        "-S base_model.sha256= base_model",
        "hf upload ME/my-model models/dpo",
    ),
    "wants a GPU or a program that is not among the requirements": (
        "dvc exp run -S train.dtype=bfloat16 -S train.lora_layers=0 -S train.gguf=none -S train.gradient_checkpointing=true",
        "llama-server --model models/dpo/model.gguf --host 127.0.0.1 --port 8080",
        "vllm serve models/dpo --host 127.0.0.1 --port 8000 --load-format safetensors",
    ),
}
WHY = {command: why for why, several in NOT_RUN.items() for command in several}
COMMANDS = {page: commands(page) for page in PAGES}
EVERY = sorted({(page, line) for page in PAGES for line in (*COMMANDS[page], *inline(page))})
GUARD = "test_no_command_of_the_page_is_left_out"
ABSENT = {"llama-server", "vllm", "sglang", "ray", "ssh"}  # programs that are not installed with the requirements


# --- the dry form ------------------------------------------------------------------------------------------------------


def taken_apart(line: str) -> list[list[str]]:
    """The commands of a line that `&&`, `;`, `|` join, each as its words, without variables set for it and redirections."""
    filled = re.sub(r"\$\(python -m stages\.common\.preset (\w+)\)", lambda m: shlex.join(preset.words(m[1])), line)
    lexer = shlex.shlex(filled, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";", "|"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found]


def with_params_of(page: str) -> DictConfig:
    """params.yaml with what a page tells to write into it."""
    values = OmegaConf.load(ROOT / "params.yaml")
    if page == "endpoints":
        values.llm.merge_with(OmegaConf.create(blocks(page, "yaml")[0]))
    if page == "add_a_stage":
        values.merge_with(OmegaConf.create(blocks(page, "yaml", "3.")[0]))
    return values


def overridden(page: str, words: list[str], folder: Path) -> None:
    """What `dvc` makes of its words; the params they give are ones that params.yaml may hold."""
    from dvc.cli import DvcParserError, parse_args
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    try:
        given = parse_args(words)
    except DvcParserError:  # in running text a command may stand for itself
        with pytest.raises(SystemExit) as told:
            parse_args([*words, "--help"])
        assert told.value.code == 0
        return
    sweeps = get_hydra_sweeps(to_path_overrides(getattr(given, "set_param", None) or []))
    assert len(sweeps) < 2 or "--queue" in words
    for overrides in sweeps:
        OmegaConf.save(with_params_of(page), folder / "params.yaml")
        apply_overrides(folder / "params.yaml", overrides.get("params.yaml", []))
        values = params.load_yaml(str(folder / "params.yaml"))
        values.pop("questions", None)  # of the example, which no stage here reads
        assert params.check(values) == []


@pytest.mark.parametrize(("page", "line"), EVERY)
def test_every_command_can_be_given(page, line, tmp_path, monkeypatch):
    """DVC's own command line and override parsers, make -n, a module that is there, a program, a shell that reads it."""
    monkeypatch.chdir(ROOT)
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0
    for words in taken_apart(line):
        if words[0] == "make":
            sh(ROOT, "make", "-n", *words[1:])
        elif words[:2] == ["python", "-m"]:
            top = words[2].partition(".")[0]
            assert top in ABSENT or importlib.util.find_spec(words[2]), words[2]
        elif words[0] == "dvc":
            overridden(page, words[1:], tmp_path)
        else:
            beside = Path(sys.executable).parent / words[0]
            assert words[0] in {*ABSENT, ".", "cd", "$EDITOR"} or beside.exists() or shutil.which(words[0]), words[0]


# --- none is left out --------------------------------------------------------------------------------------------------


def walked(page: str) -> bool:
    """Whether the page is walked here: its test runs whatever commands it has."""
    return f"test_{page}" in globals()


def guarded(page: str) -> Callable[[], None] | None:
    """The test in tests/test_PAGE.py that sees to it that the tests there run every command of the page."""
    if not (ROOT / f"tests/test_{page}.py").exists():
        return None
    return getattr(importlib.import_module(f"test_{page}"), GUARD, None)


def left_out() -> list[tuple[str, str]]:
    """(page, command) of each that nothing runs and nothing is said of."""
    known = {line for page in PAGES if walked(page) for line in commands(page)} | set(WHY)
    others = [page for page in PAGES if not walked(page) and not guarded(page)]
    return [(page, line) for page in others for line in commands(page) if line not in known]


def test_no_command_is_left_out():
    assert left_out() == []
    lines = {line for several in COMMANDS.values() for line in several}
    assert len(lines) > 80 and set(WHY) <= lines, "NOT_RUN names what no page has"


@pytest.mark.parametrize("page", [p for p in PAGES if COMMANDS[p]])
def test_a_new_command_would_be_seen(page, monkeypatch):
    """On a page that is walked it is run; elsewhere one of two tests fails."""
    new = "dvc status --quiet --cloud"

    def longer(name: str, heading: str = "") -> str:
        return section(name, heading) + (f"\n## Later\n\n```sh\n{new}\n```\n" if name == page and not heading else "")

    monkeypatch.setattr(pages, "section", longer)
    assert commands(page) == [*COMMANDS[page], new]
    if walked(page):
        assert f'walk(here, "{page}"' in Path(__file__).read_text().split(f"\ndef test_{page}(")[1].split("\ndef ")[0]
    elif guard := guarded(page):
        with pytest.raises(AssertionError):
            guard()
    else:
        assert left_out() == [(page, new)]


# --- links and names ---------------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor that a heading has on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", section(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = PAGES[page].parent / path if path else PAGES[page]
            assert file.exists(), target
            assert not anchor or anchor in map(slug, re.findall(r"^#+ (.*)", file.read_text(), re.M)), target


def test_every_page_is_linked_from_the_readme():
    assert set(re.findall(r"\]\(docs/(\w+)\.md\)", section("README"))) == set(PAGES) - {"README"}


@pytest.mark.parametrize("page", PAGES)
def test_params_that_are_named_exist(page):
    """`section.key` and `-S section.key=` in running text; in commands the dry form looks at them."""
    values = with_params_of(page)
    text = section(page)
    named = re.findall(r"-S '?\+?([\w.]+)=", text) + re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:[=:][^`]*)?`", text)
    for name in named:
        parent, _, key = name.rpartition(".")
        if name.partition(".")[0] in values and key not in ("py", "json", "jsonl", "yaml", "md", "txt"):
            inside = OmegaConf.select(values, parent)
            assert OmegaConf.is_dict(inside) and (key in inside or parent == "sft.mix"), name


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_are_named_exist(page):
    """Files of the repository, and what its stages and commands write; patterns and the reader's own are passed over."""
    spec = (ROOT / "dvc.yaml").read_text()
    written = {"results/browse.html", "results/report.html", "results/report.md", "docs/study.json"}
    folders = "data|models|prompts|presets|stages|tests|benchmarks|results|docs"
    for path in re.findall(rf"(?<![\w/.@-])(?:{folders})/[\w./-]*\w(?![\w*{{@])", section(page)):
        own = re.search(r"[A-Z]|my_|/mine|questions|/live|replies.jsonl.gz", path)
        assert own or (ROOT / path).exists() or path in spec or path in written, path


# --- the walks ---------------------------------------------------------------------------------------------------------


def walk(
    folder: Path, page: str, *, said_as: Mapping[str, str] = {}, then: Mapping[str, Callable[[], None]] = {}, **env: str
) -> dict[str, Done]:
    """Run every command of a page in order, but for those of NOT_RUN; each must succeed.

    Args:
        said_as: other words for parts of commands (an address, a path).
        then: what is to happen after a command, before the next.
    """
    found = {}
    for line in commands(page):
        if line not in WHY:
            given = line
            for part, other in said_as.items():
                given = given.replace(part, other)
            found[line] = done = shell(folder, given, **env)
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            then.get(line, lambda: None)()
    unknown = set(then) - set(found)
    assert found and not unknown, unknown
    return found


def with_make(folder: Path) -> None:
    """The Makefile, and an environment that needs no set-up."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("bin/activate", ".done"):
        (folder / ".venv" / name).touch()


def with_origin(folder: Path) -> None:
    """A bare repository beside it, which it was pushed to."""
    sh(folder.parent, "git", "init", "-q", "--bare", "-b", "main", "origin.git")
    sh(folder, "git", "remote", "add", "origin", str(folder.parent / "origin.git"))
    sh(folder, "git", "push", "-q", "origin", "HEAD")


def editor(folder: Path, old: str, new: str) -> str:
    """A program that edits as a person would."""
    program = folder.parent / "editor"
    program.write_text(f"#!/bin/sh\nsed -i 's/{old}/{new}/' $1\n")
    program.chmod(0o700)
    return str(program)


def experiment(folder: Path, url: str, *stages: str) -> Project:
    """Two arms, base and dpo, which a server answers for; the training writes down its settings and trains nothing."""
    project = repository(
        folder, url, "seed_personas", "dpo", "converse", "calibrate", "judge", *stages, arms=("base", "dpo"),
        arms__base__model="scripted:tiny", arms__dpo__model="scripted:tiny", converse__turns=2, eval__resamples=50,
    )  # fmt: skip
    spec = OmegaConf.load(folder / "dvc.yaml")
    spec.stages.dpo.cmd = (
        "mkdir -p models/dpo results/dpo_live && cp params.yaml models/dpo && "
        "touch results/dpo_live/curve && echo {} > results/dpo.json"
    )
    spec.stages.dpo.deps = ["models/base"]
    OmegaConf.save(spec, folder / "dvc.yaml")
    with_make(folder)
    done = shell(folder, "dvc repro")
    assert done.returncode == 0, done.stderr
    commit(folder, "after make repro")
    with_origin(folder)
    return project


def finished(folder: Path) -> Callable[[], None]:
    """Waits for the queue."""

    def wait() -> None:
        end = time.monotonic() + 300
        while any(word in (status := sh(folder, "dvc", "queue", "status")) for word in ("Queued", "Running")):
            assert time.monotonic() < end, status
            time.sleep(0.5)
        assert "Failed" not in status and "Success" in status, status
        sh(folder, "dvc", "queue", "stop", "--kill", check=False)

    return wait


@pytest.mark.slow
def test_tutorial(server, tmp_path):
    here = tmp_path / "repo"
    experiment(here, server.url, "eval")
    talking = tmp_path / "talking"
    talking.mkdir()
    seen: dict[str, str] = {}

    def judged_again() -> None:
        sh(here, "git", "stash", "-q")
        before = len(server.requests)
        seen["undone"] = sh(here, "dvc", "repro")
        assert len(server.requests) == before and sh(here, "git", "status", "--porcelain") == ""
        sh(here, "git", "stash", "pop", "-q")
        sh(here, "dvc", "checkout", "-q")

    said = walk(
        here, "tutorial",
        said_as={"/srv/dvc-store": str(tmp_path / "store"), "make chat": "make browse"},
        then={"git diff --stat": judged_again, "dvc queue start": finished(here)},
        EDITOR=editor(here, "1: it would fit anybody", "1: anybody could be told so"),
    )  # fmt: skip
    assert "up to date" in said["dvc status"].stdout
    changed = {"calibrate", "judge@base", "judge@dpo", "eval"}
    assert set(ran(said["dvc repro"])) == changed and "AL(1)" in said["dvc repro"].stdout
    assert "judge embedded: FAILED" in section("tutorial") and "judge scripted:tiny: FAILED" in said["dvc repro"].stdout
    assert "Stage 'converse@dpo' didn't change, skipping" in said["dvc repro"].stdout
    assert {"prompts/judge.txt", "dvc.lock", "results/eval.json"} <= set(re.findall(r"[\w./]+", said["git diff --stat"].stdout))
    page = said["make compare A=HEAD~1 B=HEAD"].stdout
    assert "+You rate how well" in page and "Not measured in the same way: prompts_sha256.judge differ" in page
    shown = said["dvc exp show --only-changed --drop 'calls|outcomes'"].stdout
    assert "beta-1" in shown and "beta-2" in shown and "dpo.beta" in shown
    assert "| dpo.beta | 0.05 | 0.3 |" in said["make compare A=beta-1 B=beta-2"].stdout
    assert all((here / f"results/{name}").exists() for name in ("browse.html", "report.html", "report.md"))
    assert OmegaConf.load(here / "params.yaml").dpo.beta == 0.3
    status = said["cd ../copy && dvc pull && dvc status"].stdout
    assert "Data and pipelines are up to date" in status
    assert (tmp_path / "copy/models/dpo/params.yaml").exists()
    assert "beta-1" in sh(tmp_path / "copy", "dvc", "exp", "list", "--all-commits")
    assert seen["undone"], seen
