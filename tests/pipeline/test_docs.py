"""The pages: every command in them is run, links and names in them lead somewhere.

A command is one of three: its page is walked here, top to bottom, in a small repository; its page has tests of its own,
which see to it that none is left out; or NOT_RUN says why no test runs it. What is not walked, and commands in running text,
are given in dry form.
"""

import csv
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pages
import pytest
from conftest import ROOT, Done, Server
from omegaconf import DictConfig, OmegaConf
from pages import PAGES, blocks, commands, inline, section
from repository import PEOPLE, commit, conversation, jsonl, ran, repository, sh, shell

from stages.core import params
from stages.tools import check, preset

NOT_RUN = {
    "want data of others: tests/stages/test_external.py makes up some": (
        "git clone --depth 1 https://github.com/amazon-science/PrefEval data/benchmarks/prefeval",
        'hf download bowen-upenn/PersonaMem-v2 --repo-type dataset --include "benchmark/text/*" "data/chat_history_32k/*" '
        "--local-dir data/benchmarks/personamem",
        "dvc exp run -S +external.folders.prefeval=data/benchmarks/prefeval external@prefeval",
        "python -m stages.external --benchmark prefeval --folder data/benchmarks/prefeval --weights models/base models/dpo "
        "--limit 100 --items items.jsonl --metrics metrics.json",
    ),
    "is the whole pipeline or all tests: test_end_to_end.py, .ci/run": (
        "make repro",
        "make test",
        "make rehearsal",
        "dvc exp run --name smoke $(python -m stages.tools.preset smoke)",
    ),
    "are queues, as the tutorial's; test_experiments.py runs two at a time, tests/core/test_studio.py offline": (
        "dvc exp run --queue -S 'roles.inducer_temp=0.0,0.5' -S 'roleplay.seed=1,2'",
        "dvc queue start -j 2",
        "DVC_STUDIO_OFFLINE=true dvc exp run --queue -S 'roles.inducer_temp=0.0,0.5'",
    ),
    "plans 3,210 trees, a minute: tests/tools/test_preset.py plans a smaller preset": ("make plan PRESET=paper",),
    "is the whole pipeline on a model of half a GB: test_base_model.py joins parts, tests/weights/test_gguf.py has Qwen2": (
        "dvc exp run --name local-0.5b $(python -m stages.tools.preset local-0.5b)",
    ),
    "asks a paid API, wants a GPU": (
        "dvc exp run --name paper $(python -m stages.tools.preset paper)",
        "dvc exp run --name paper-b $(python -m stages.tools.preset paper) -S dpo.beta=0.1",
    ),
    "trains two rounds: test_pipeline.py has its waves, test_faults.py and tests/stages its stages": (
        "dvc exp run --name round2 -S '+rounds.2={policy:dpo,roleplay:{seed:2},extract_pairs:{more_trees:data/import/trees,"
        "groups:data/import/groups},dpo:{start:sft}}' "
        "-S '+arms.dpo2={model:local,weights:dpo_2,prompt:assistant,strategy:reply,memory:all}'",
    ),
    "wants eight GPUs": (
        "dvc exp run -S \"train.launch='accelerate launch --config_file presets/accelerate/fsdp8.yaml -m'\" "
        "-S train.lora_r=0 -S train.dtype=bfloat16 -S train.gguf=none -S train.attn_implementation=flex_attention "
        "-S sft.per_device_train_batch_size=2 -S sft.gradient_accumulation_steps=24 "
        "-S dpo.per_device_train_batch_size=2 -S dpo.gradient_accumulation_steps=24",
    ),
    "starts several processes: tests/stages/test_training.py does, with the settings of this file": (
        "dvc exp run -S \"train.launch='env ACCELERATE_USE_CPU=true accelerate launch --config_file "
        "presets/accelerate/cpu2.yaml -m'\" -S sft.per_device_train_batch_size=2 -S sft.gradient_accumulation_steps=2 "
        "-S dpo.per_device_train_batch_size=6 -S dpo.gradient_accumulation_steps=2",
    ),
    "reaches the Hub": (
        "dvc exp run -S base_model.source=Qwen/Qwen2-7B-Instruct -S base_model.revision=COMMIT "
        "-S base_model.sha256= base_model",
        "hf upload ME/my-model models/dpo",
        "make publish REPO=ME/my-model PUSH=1 LICENSE=apache-2.0 DATA_LICENSE=apache-2.0",
    ),
    "wants a GPU or a program that is not among the requirements": (
        "dvc exp run -S train.dtype=bfloat16 -S train.lora_layers=0 -S train.gguf=none -S train.gradient_checkpointing=true",
        "llama-server --model models/dpo/model.gguf --host 127.0.0.1 --port 8080",
        "vllm serve models/dpo --host 127.0.0.1 --port 8000 --load-format safetensors",
    ),
}
WHY = {command: why for why, several in NOT_RUN.items() for command in several}
COMMANDS = {page: commands(page) for page in PAGES}
GUARD = "test_no_command_of_the_page_is_left_out"
ABSENT = {
    "llama-server",
    "vllm",
    "vllm-router",
    "sglang",
    "ray",
    "ssh",
}  # programs that are not installed with the requirements


# --- the dry form ------------------------------------------------------------------------------------------------------


def split(line: str) -> list[list[str]]:
    """The commands of a line that `&&`, `;`, `|` join, each as its words, without variables set for it and redirections."""
    filled = re.sub(r"\$\(python -m stages\.tools\.preset ([\w.-]+)\)", lambda m: shlex.join(preset.words(m[1])), line)
    lexer = shlex.shlex(filled, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";", "|"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            found[-1].append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found]


@cache
def with_params_of(page: str) -> DictConfig:
    """params.yaml with what a page tells to write into it."""
    values = OmegaConf.load(ROOT / "params.yaml")
    if page in ("endpoints", "cluster"):
        values.llm.merge_with(OmegaConf.create(blocks(page, "yaml")[0]))
    if page == "add_a_stage":
        values.merge_with(OmegaConf.create(blocks(page, "yaml", "3.")[0]))
    return values


def parsed(page: str, words: list[str], folder: Path, whole: bool) -> None:
    """DVC takes the words, and the params they give are ones that params.yaml may hold.

    `whole`: False in running text, where a command may stand without its arguments.
    """
    from dvc.cli import DvcParserError, parse_args
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

    try:
        given = parse_args(words)
    except DvcParserError:
        assert not whole
        with pytest.raises(SystemExit) as ended:
            parse_args([*words, "--help"])
        assert ended.value.code == 0
        return
    sweeps = get_hydra_sweeps(to_path_overrides(getattr(given, "set_param", None) or []))
    assert len(sweeps) < 2 or "--queue" in words
    for overrides in sweeps:
        OmegaConf.save(with_params_of(page), folder / "params.yaml")
        apply_overrides(folder / "params.yaml", overrides.get("params.yaml", []))
        values = params.load_yaml(str(folder / "params.yaml"))
        values.pop("questions", None)  # of the example, which no stage here reads
        assert [fault for fault in check.check(values) if "no such file" not in fault] == []  # they are the reader's


def dry(page: str) -> list[str]:
    """Commands of a page that its walk does not run."""
    return [*(line for line in COMMANDS[page] if line in WHY or not walked(page)), *inline(page)]


def walked(page: str) -> bool:
    """Whether the page is walked here: its test runs whatever commands it has."""
    return f"\ndef test_{page}(" in Path(__file__).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), sorted({(page, line) for page in PAGES for line in dry(page)}))
def test_what_is_not_walked_can_be_given(page, line, tmp_path, monkeypatch):
    """DVC's own command line and override parsers, make -n, a module that is there, a program, a shell that reads it."""
    monkeypatch.chdir(ROOT)
    assert subprocess.run(["bash", "-n", "-c", line], capture_output=True).returncode == 0
    for words in split(line):
        if words[0] == "make":
            sh(ROOT, "make", "-n", *words[1:])
        elif words[:2] == ["python", "-m"]:
            top = words[2].partition(".")[0]
            assert top in ABSENT or importlib.util.find_spec(words[2]), words[2]
        elif words[0] == "dvc":
            parsed(page, words[1:], tmp_path, whole=line in COMMANDS[page])
        else:
            known = shell(tmp_path, f"type {shlex.quote(words[0])}").returncode == 0
            assert known or words[0] in {*ABSENT, "$EDITOR"}, words[0]


# --- none is left out --------------------------------------------------------------------------------------------------


def guarded(page: str) -> Callable[[], None] | None:
    """The test in test_PAGE.py beside this file that requires that the tests there run every command of the page."""
    file = Path(__file__).with_name(f"test_{page}.py")
    if not file.exists() or f"\ndef {GUARD}(" not in file.read_text():
        return None
    return getattr(importlib.import_module(f"pipeline.{file.stem}"), GUARD)


def left_out() -> list[tuple[str, str]]:
    """(page, command) of each that no test runs and NOT_RUN does not name."""
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
        own = Path(__file__).read_text().split(f"\ndef test_{page}(")[1].split("\ndef ")[0]
        assert re.search(rf'walk\(\s*here, "{page}"', own)
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
            assert OmegaConf.is_dict(inside) and (key in inside or f"+{name}=" in text), name


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_are_named_exist(page):
    """Files of the repository, and what its stages and commands write; patterns and the reader's own are passed over."""
    spec = (ROOT / "dvc.yaml").read_text()
    spec += spec.replace("${key}", "2")  # of a later round
    made = {"results/browse.html", "results/report.html", "results/report.md", "models/dpo/model.gguf", "data/.gitignore"}
    made |= {"results/publish/model", "results/publish/dataset", "results/survey/survey.html", "results/survey/people.json"}
    folders = "data|models|prompts|presets|stages|tests|benchmarks|results|docs"
    for path in re.findall(rf"(?<![\w/.@-])(?:{folders})/[\w./-]*\w(?![\w*{{@])", section(page)):
        own = re.search(r"[A-Z]|my_|/mine|questions|/live|replies.jsonl.gz|data/benchmarks|data/chat_", path)
        assert own or (ROOT / path).exists() or path in spec or path in made, path


# --- the walks ---------------------------------------------------------------------------------------------------------


def walk(
    folder: Path,
    page: str,
    *,
    but: Sequence[str] = (),
    instead: Mapping[str, str] = {},
    then: Mapping[str, Callable[[], None]] = {},
    **env: str,
) -> dict[str, Done]:
    """Run every command of a page in order, but for those of NOT_RUN; each must succeed.

    Args:
        but: pages whose walk runs some of its commands, which are then not run again.
        instead: other words for parts of commands (an address, a path).
        then: what is to happen after a command, before the next.
    """
    assert all(map(walked, but))
    others = {line for other in but for line in commands(other)}
    outputs = {}
    for line in commands(page):
        if line not in WHY and line not in others:
            given = line
            for part, other in instead.items():
                given = given.replace(part, other)
            outputs[line] = done = shell(folder, given, **env)
            assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            then.get(line, lambda: None)()
    unknown = set(then) - set(outputs)
    assert outputs and not unknown, unknown
    return outputs


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


def experiment(folder: Path, url: str, *stages: str, arms: Sequence[str]) -> None:
    """A repository after `make repro`. A server answers for all models; dpo copies the base and writes down its settings."""
    models = {f"arms__{arm}__model": "scripted:tiny" for arm in arms}
    repository(
        folder, url, "seed_personas", "dpo", *stages, people=PEOPLE[:2], arms=arms, **models,
        converse__turns=2, eval__resamples=50,
    )  # fmt: skip
    items = folder / "data/calibration/items.jsonl"
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:10]))  # two contexts
    spec = OmegaConf.load(folder / "dvc.yaml")
    spec.stages.dpo.cmd = (
        "mkdir -p results/dpo_live && cp -r models/base models/dpo && cp params.yaml models/dpo && "
        "touch results/dpo_live/curve && echo {} > results/dpo.json"
    )
    spec.stages.dpo.deps = ["models/base"]
    OmegaConf.save(spec, folder / "dvc.yaml")
    with_make(folder)
    if "base_model" not in stages:
        done = shell(folder, "dvc repro")
        assert done.returncode == 0, done.stderr
    commit(folder, "after make repro")
    with_origin(folder)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Iterator[Path]:
    """What `experiment` makes with all stages, once: tests change copies of it (see `copied`)."""
    server = Server()
    here = tmp_path_factory.mktemp("reproduced") / "repo"
    experiment(here, server.url, "roleplay", "converse", "calibrate", "judge", "eval", arms=("base", "dpo"))
    yield here
    server.stop()


def copied(made: Path, folder: Path) -> Path:
    """A copy of a repository and of its origin."""
    for name in (made.name, "origin.git"):
        shutil.copytree(made.parent / name, folder / name, symlinks=True)
    sh(folder / made.name, "git", "remote", "set-url", "origin", str(folder / "origin.git"))
    return folder / made.name


def finished(folder: Path) -> Callable[[], None]:
    """Waits for the queue."""

    def wait() -> None:
        end = time.monotonic() + 300
        while any(word in (status := sh(folder, "dvc", "queue", "status")) for word in ("Queued", "Running")):
            assert time.monotonic() < end, status
            time.sleep(4)  # asking costs as much as a stage
        assert "Failed" not in status and "Success" in status, status
        sh(folder, "dvc", "queue", "stop", "--kill", check=False)

    return wait


@pytest.mark.slow
def test_tutorial(reproduced, tmp_path):
    here = copied(reproduced, tmp_path)

    def undo() -> None:
        """What the page says of it, and back again."""
        sh(here, "git", "stash", "-q")
        assert ran(shell(here, "dvc repro")) == [] and sh(here, "git", "status", "--porcelain") == ""
        sh(here, "git", "stash", "pop", "-q")
        sh(here, "dvc", "checkout", "-q")

    reports = [line for line in COMMANDS["tutorial"] if line.startswith("make report")]
    compared: list[str] = []

    def keep() -> None:
        compared.append((here / "results/report.md").read_text())

    done = walk(
        here, "tutorial",
        instead={"/srv/dvc-store": str(tmp_path / "store")},
        then={"git diff --stat": undo, "dvc queue start": finished(here), **dict.fromkeys(reports, keep)},
        EDITOR=editor(here, "1: it would fit anybody", "1: anybody could be told so"),
    )  # fmt: skip
    assert "up to date" in done["dvc status"].stdout
    changed = {"calibrate", "judge@base", "judge@dpo", "eval"}
    assert set(ran(done["dvc repro"])) == changed and "\nThe judge? Not to be believed" in done["dvc repro"].stdout
    assert "judge embedded: FAILED" in section("tutorial") and "judge scripted:tiny: FAILED" in done["dvc repro"].stdout
    assert "Stage 'converse@dpo' didn't change, skipping" in done["dvc repro"].stdout
    assert all(
        name in done["git diff --stat"].stdout for name in ("prompts/small/judge.txt", "dvc.lock", "results/eval.json")
    )
    assert "+You rate how well" in compared[0] and "\nNot measured in the same way" in compared[0]
    assert re.search(r"\n\| prompts_sha256\.judge +\|", compared[0])
    shown = done["dvc exp show --drop '.*' --keep 'Experiment|dpo.beta|.*choose.pair_accuracy.value'"].stdout
    assert max(map(len, shown.splitlines())) < 120
    assert "beta-1" in shown and "beta-2" in shown and "dpo.beta" in shown
    assert re.search(r"\n\| dpo\.beta +\| 0\.05 +\| 0\.1 +\|", compared[1])
    assert all((here / f"results/{name}").exists() for name in ("browse.html", "report.html", "report.md"))
    assert OmegaConf.load(here / "params.yaml").dpo.beta == 0.3
    status = done["cd ../copy && dvc pull && dvc status"].stdout
    assert "Data and pipelines are up to date" in status
    assert (tmp_path / "copy/models/dpo/params.yaml").exists()
    assert "beta-1" in sh(tmp_path / "copy", "dvc", "exp", "list", "--all-commits")


@pytest.mark.slow
def test_experiments(server, tmp_path):
    here = tmp_path / "repo"
    repository(here, server.url, "seed_personas")
    with_make(here)
    (here / "results").mkdir()
    for name in ("eval.json", "eval_cases.jsonl"):
        shutil.copy(ROOT / "results" / name, here / "results")
    commit(here, "make")
    sh(here, "dvc", "exp", "run", "--name", "smoke", "-S", "seed_personas.min_chars=11")
    done = walk(here, "experiments", DVC_STUDIO_URL="http://127.0.0.1:9")
    table = list(csv.DictReader((here / "experiments.csv").read_text().splitlines()))
    assert ("smoke", "11") in {(row["Experiment"], row["seed_personas.min_chars"]) for row in table}
    assert "## Against HEAD" in (here / "results/report.md").read_text()
    assert "beta02" in done["dvc exp run --name beta02 -S dpo.beta=0.2"].stdout


@pytest.mark.slow
def test_README(reproduced, tmp_path):
    here = copied(reproduced, tmp_path)
    done = walk(
        here, "README", but=["tutorial", "api_roles"],
        EDITOR=editor(here, "1: it would fit anybody", "1: anybody could be told so"),
    )  # fmt: skip
    assert ran(done["dvc exp run -S roles.inducer_temp=0.9"]) == ["roleplay", "eval"]  # whose protocol has all params
    assert ran(done["dvc exp run -S dpo.beta=0.2"])[:2] == ["dpo", "converse@dpo"]
    judged = {"calibrate", "judge@base", "judge@dpo", "eval"}
    assert set(ran(done["$EDITOR prompts/small/judge.txt && dvc repro"])) == judged


@pytest.mark.slow
def test_api_roles(server, tmp_path):
    here = tmp_path / "repo"
    stages = OmegaConf.load(ROOT / "dvc.yaml").stages
    openai = OmegaConf.to_container(OmegaConf.load(ROOT / "params.yaml").llm.endpoints.openai)
    scripted = {"base_url": server.url, "deadline_s": 5.0}
    repository(
        here, server.url, *stages, arms=tuple(OmegaConf.load(ROOT / "params.yaml").arms),
        llm__endpoints={"openai": {**openai, "base_url": server.url}, "scripted": scripted},
    )  # fmt: skip
    with_make(here)
    spec = OmegaConf.load(here / "dvc.yaml")

    def judge_alone() -> None:
        """From here on: the judge's stages and one arm."""
        spec.stages = {name: spec.stages[name] for name in ("calibrate", "judge")}
        OmegaConf.save(spec, here / "dvc.yaml")
        values = OmegaConf.load(here / "params.yaml")
        values.arms = {"base": values.arms.base}
        OmegaConf.save(values, here / "params.yaml")
        (here / "models/base").mkdir(parents=True)
        (here / "models/base/model.safetensors").write_text("weights")
        jsonl(here / "data/conversations/base.jsonl", [conversation(p) for p in PEOPLE])
        commit(here, "judge")

    done = walk(here, "api_roles", then={"make plan S='roles.inducer_temp=0.9'": judge_alone}, OPENAI_API_KEY="sk-1")
    assert re.search(r"\nroleplay +user +0 +72 .* unknown", done["make plan"].stdout)
    assert "passed" in done["dvc metrics show results/judge/calibration.json"].stdout
    assert re.search(r"judge +judge +openai:gpt-6-luna", done["python -m stages.tools.replies size"].stdout)


@pytest.mark.slow
def test_own_personas(server, tmp_path):
    here = tmp_path / "repo"
    grown = {"target": 26, "threshold": 0.95}
    repository(
        here, server.url, "seed_personas", "filter_personas", filter_personas__profiles=grown,
        filter_personas__personalities=grown, filter_personas__train=4, filter_personas__eval_profiles=1,
    )  # fmt: skip
    (example,) = blocks("own_personas", "json")
    (here / "data/my_profiles.jsonl").write_text(example)
    traits = ["I am calm, kind, and shy.", "I am loud, rude, and brave.", "I am tidy, slow, and proud."]
    jsonl(here / "data/my_personalities.jsonl", traits)
    found: list[list[object]] = []

    def measured() -> None:
        pool = json.loads((here / "results/filter_personas.json").read_text())["profiles"]
        found.append([pool[key] for key in ("seeds", "imported", "generated", "stopped")])

    imports, alone = commands("own_personas", "Import them")[-2], commands("own_personas", "Nobody but")[-1]
    walk(here, "own_personas", instead={"/tmp/": f"{tmp_path}/"}, then={imports: measured, alone: measured})
    assert found == [[24, 2, 0, "target"], [2, 0, 0, "target"]]
    people = [json.loads(line) for name in ("train", "eval") for line in (here / f"data/personas/{name}.jsonl").open()]
    assert len(people) == 2 + 1 and all(person["profile"] in example for person in people)
    assert len((tmp_path / "profiles.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_git_takes_what_dvc_writes_beside_models_and_benchmarks():
    asked = ["models/base", "models/mine", "data/benchmarks/prefeval", "models/mine.dvc", "data/benchmarks/prefeval.dvc"]
    assert sh(ROOT, "git", "check-ignore", "--no-index", *asked).split() == asked[:3]


@pytest.mark.slow
def test_own_model(server, tmp_path, monkeypatch, capsys):
    from tiny import save

    here = tmp_path / "repo"
    experiment(here, server.url, "base_model", arms=("base",))

    def published() -> None:
        for line in (
            "dvc repro dpo", f"dvc remote add --default store {tmp_path}/store", "git add -A", "git commit -qm dpo",
            "dvc push", "git push -q origin HEAD",
        ):  # fmt: skip
            assert shell(here, line).returncode == 0, line

    first, *_, register, get = (line for line in commands("own_model") if line not in WHY)
    done = walk(
        here, "own_model", instead={"/tmp/dpo": f"{tmp_path}/dpo", "/models/mine": str(save(tmp_path / "mine"))},
        then={first: published, register: lambda: sh(here, "git", "push", "-q", "origin", "--tags")},
    )  # fmt: skip
    assert re.search(r"base_model.sha256 is not pinned; model.safetensors has [0-9a-f]{64}", done[first].stderr)
    assert ran(done[first]) == ["base_model"] and not (here / "models/base/model.gguf").exists()
    assert (tmp_path / "dpo/model.safetensors").read_bytes() == (here / "models/base/model.safetensors").read_bytes()
    monkeypatch.chdir(here)
    (example,) = blocks("own_model", "python")
    exec(compile(example, "docs/own_model.md", "exec"), {})
    assert capsys.readouterr().out.endswith("\n") and get in done


@pytest.mark.slow
def test_share(server, tmp_path):
    here = tmp_path / "repo"
    made = ("base_model", "seed_personas", "filter_personas", "roleplay", "extract_pairs", "sft", "dpo", "eval")
    repository(here, server.url, *made, people=PEOPLE[:2], arms=("base", "dpo"))
    with_make(here)
    for name in ("dvc.lock", "results/roleplay.json", "results/extract_pairs.json", "data/natural/trees.jsonl"):
        (here / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, here / name)
    trees = (here / "data/natural/trees.jsonl").read_text().splitlines(keepends=True)[:3]
    (here / "data/trees.jsonl").write_text("".join(trees))
    pair = {"prompt": [{"role": "user", "content": "Hi."}], "chosen": [], "rejected": []}
    for name in ("train", "val"):
        jsonl(here / f"data/pairs/{name}.jsonl", [pair])
    jsonl(here / "data/conversations/dpo.jsonl", [conversation(p) | {"turns": [
        {"turn": 1, "item": 1, "user": "I fish 1.", "reply": "What?", "outcome": "ok"}]} for p in PEOPLE[:2]])  # fmt: skip

    def answered() -> None:
        """Two raters send their files."""
        page = (here / "results/survey/survey.html").read_text()
        (path,) = (p for p in (here / "results/survey").glob("key-*.json") if p.stem.removeprefix("key-") in page)
        key = json.loads(path.read_text())
        for rater, choice in (("ann", 1), ("ben", 0)):
            saved = {"survey": key["id"], "rater": rater, "answers": dict.fromkeys(key["pairs"], choice)}
            (here / f"survey-{rater}.json").write_text(json.dumps(saved))

    surveys = [line for line in COMMANDS["share"] if line.startswith("make survey")]
    done = walk(here, "share", then={surveys[-1]: answered})
    dry = done["make publish REPO=ME/my-model"].stdout
    assert "dataset ME/my-model" in dry and "missing: models/dpo" in dry and "Nothing was sent" in dry
    assert "num_rows: 3" in done[COMMANDS["share"][2]].stdout
    assert "2 pairs dpo - base" in done[surveys[-1]].stdout
    assert "alpha" in done[COMMANDS["share"][-1]].stdout and (here / "results/survey/people.json").exists()


def linked(tmp_path: Path) -> Path:
    """A folder with what the tables are made from."""
    here = tmp_path / "repo"
    here.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, here)
    for name in ("stages", "results", "docs"):
        (here / name).symlink_to(ROOT / name)
    return here


@pytest.mark.slow
def test_evaluation(tmp_path):
    here = linked(tmp_path)
    (here / "scores.csv").write_text(blocks("evaluation", "csv")[0])
    default, others = walk(here, "evaluation").values()
    assert "Cost: the form of the replies" in default.stdout and "AL(1)" in default.stdout
    assert "scale of 0-100" in others.stdout and "AL(2)" in others.stdout and (here / "cases.jsonl").exists()
    result = json.loads((here / "recomputed.json").read_text())["models"]["ours"]
    assert result["al"] == [52.5, 70.0] and result["unscored"] == 1


@pytest.mark.slow
def test_results(tmp_path):
    here = linked(tmp_path)
    printed, imported = walk(here, "results").values()
    assert "| pairs right |" in printed.stdout and printed.stdout.split("\n\n")[0] in section("results")
    assert int(imported.stdout.split()[0]) > 4000 and (here / ".cache").exists()


@pytest.mark.slow
def test_add_a_stage(server, tmp_path):
    here = tmp_path / "repo"
    repository(here, server.url, "seed_personas", arms=("base", "dpo"))
    turns = [{"turn": n, "user": "I fish.", "reply": r} for n, r in enumerate(("Good.", "Who fishes?", "So do I."), 1)]
    for arm in ("base", "dpo"):
        jsonl(here / f"data/conversations/{arm}.jsonl", [{**p, "turns": turns} for p in PEOPLE])
    code, wave = blocks("add_a_stage", "python")
    stage, values = (OmegaConf.create(block) for block in blocks("add_a_stage", "yaml"))
    (here / "stages/questions.py").write_text(code)
    for file, new in (("dvc.yaml", {"stages": stage}), ("params.yaml", values)):
        OmegaConf.save(OmegaConf.merge(OmegaConf.load(here / file), new), here / file)
    shutil.copytree(ROOT / "tests", here / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", here)
    tests = here / "tests/pipeline/test_pipeline.py"
    tests.write_text(tests.read_text().replace("SECTION_WAVES = {\n", f"SECTION_WAVES = {{\n{wave}"))
    for tool in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
        sh(here, *tool, "stages/questions.py")
    done = walk(here, "add_a_stage", but=["api_roles"])
    assert ran(done["dvc repro questions"]) == ["questions"]
    assert ran(done["dvc exp run -S questions.min_words=2"])[-1] == "questions"
    assert json.loads((here / "results/questions.json").read_text())["dpo"] == {"replies": 8, "share": 0.5}
    assert "3 passed" in done["python -m pytest tests/pipeline/test_pipeline.py -k questions"].stdout
