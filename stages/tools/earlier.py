"""Whether what a page shows is of the run as it is now: DVC's status of the stages that its files come from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from stages.core import params
from stages.core.cli import UserError, one_line


@contextmanager
def pipeline() -> Iterator[tuple[Any, dict[str, Any]]]:
    """The repository as DVC opens it, and DVC's status of every stage, by address; no git, so it is quick.

    Raises:
        DvcException: there is no repository (NotDvcRepoError), or it is locked or broken.
    """
    from dvc.dependency.param import load_path
    from dvc.repo import Repo

    read_once = patch("dvc.dependency.param.load_path", cache(load_path))  # DVC parses params.yaml for every stage
    with Repo(config={"core": {"no_scm": True}}) as repo:
        with read_once:
            status = repo.status()
        yield repo, status


@contextmanager
def dvcs_words() -> Iterator[None]:
    """Turn what DVC raises (a circle of stages, a line of arms without its model, a lock) into a UserError."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as e:
        raise UserError(f"{one_line(e)}; python -m stages.tools.check names faults of params.yaml") from None


def earlier(*names: str) -> str | None:
    """One line on the stages behind what stages `names` made whose files, code or params have changed; None: none has.

    A stage without outputs shows nothing, and a file that is not there (before `dvc pull`) tells nothing of the run.
    """
    import networkx
    from dvc.exceptions import DvcException, NotDvcRepoError

    try:
        with pipeline() as (repo, status):
            graph = repo.index.graph
            shown = {s for s in graph if s.addressing.partition("@")[0] in names}
            behind = shown.union(*(networkx.descendants(graph, s) for s in shown))
            there = [s.addressing for s in repo.index.stages if s in behind and any(out.exists for out in s.outs)]
    except NotDvcRepoError:
        return None
    except DvcException as e:
        return f"Not known whether this is of an earlier run: {one_line(e)}"
    found = dict.fromkeys(name.partition("@")[0] for name in there if _changed(status.get(name, [])))
    what = f"An earlier run: files, code or params of {', '.join(found)} have changed since; make repro renews what follows."
    return what if found else None


def _changed(status: Sequence[str | Mapping[str, Any]]) -> bool:
    """Whether DVC's status of a stage has more than files that are not there."""
    absent = "deleted", "not in cache"  # the latter in a fresh clone
    return any(isinstance(e, str) or any(state not in absent for _, state in params.flat(e)) for e in status)
