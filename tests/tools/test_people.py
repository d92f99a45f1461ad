"""People's answers: preference, agreement among them, agreement of the machine with them."""

import json

import numpy as np
import pytest
from conftest import complains

from stages.core.statistics import krippendorff_alpha
from stages.evaluation.settings import Eval
from stages.tools import people

SETTINGS = Eval(seed=1, resamples=500)


def key(*pairs, persona=False):
    """A key whose pair n is (left, profile, machine's choice)."""
    return {
        "id": "s1", "persona": persona, "seed": 1,
        "pairs": {
            f"p{n}": {"names": ["preferred", "rejected"], "left": left, "profile": profile, "place": "",
                      "machine": {"name": "verifier", "choice": choice}}
            for n, (left, profile, choice) in enumerate(pairs)
        },
    }  # fmt: skip


FOUR = key(("preferred", "a", 1.0), ("rejected", "a", 1.0), ("preferred", "b", 0.5), ("rejected", "c", None))


@pytest.fixture
def files(tmp_path):
    """Writes a key and answers of raters; returns their paths."""

    def write(known, **answers):
        (tmp_path / "key.json").write_text(json.dumps(known))
        paths = []
        for name, choices in answers.items():
            paths.append(tmp_path / f"survey-{name}.json")
            given = {f"p{n}": c for n, c in enumerate(choices) if c is not None}
            paths[-1].write_text(json.dumps({"survey": "s1", "rater": name, "answers": given}))
        return tmp_path / "key.json", paths

    return write


def measured(files, known, **answers):
    return people.result(*people.read(*files(known, **answers)), SETTINGS)


def test_sides_are_turned_back_and_no_difference_counts_half(files):
    found = measured(files, FOUR, ann=[1, 2, 0, 2], ben=[1, 1, 1, None])
    (c,) = found["comparisons"]
    assert c["names"] == ["preferred", "rejected"] and (c["pairs"], c["answers"], c["profiles"]) == (4, 7, 3)
    assert c["preferred"]["value"] == round((1 + 1 + 0.5 + 1 + 1 + 0 + 1) / 7, 4) and c["no_difference"] == round(1 / 7, 4)
    low, high = c["preferred"]["ci"]
    assert 0.5 <= low < c["preferred"]["value"] < high <= 1
    assert c["alpha"] == round(krippendorff_alpha(np.array([[1, 1], [1, 0], [0.5, 1], [1, np.nan]])), 4)
    assert found["raters"] == [{"name": "ann", "answers": 4, "left": 0.3333}, {"name": "ben", "answers": 3, "left": 1.0}]


def test_machine_agrees_where_it_chooses_as_most_people_do(files):
    """p0: as they do; p1: people are undecided; p2: it is undecided itself; p3: it was not asked."""
    (c,) = measured(files, FOUR, ann=[1, 2, 2, 2], ben=[1, 1, 2, 2])["comparisons"]
    assert (c["machine"]["name"], c["machine"]["pairs"], c["machine"]["value"]) == ("verifier", 2, 0.75)
    (c,) = measured(files, FOUR, ann=[2, 1, 0, 1])["comparisons"]
    assert (c["machine"]["pairs"], c["machine"]["value"]) == (2, 0.0) and c["alpha"] is None


def test_a_chooser_by_chance_is_at_a_half():
    draw = np.random.default_rng(1)
    values, choices = draw.choice([0, 0.5, 1.0], (4000, 3)), draw.choice([0, 0.5, 1.0], 4000)
    assert abs(np.nanmean(people.agreement(values, choices)) - 0.5) < 0.02


def test_nothing_answered_is_no_measure(files):
    (c,) = measured(files, FOUR, ann=[])["comparisons"]
    assert c["preferred"] == {"value": None, "ci": [None, None]} and c["machine"]["value"] is None
    assert c["pairs"] == c["profiles"] == 0


def test_profiles_are_those_of_the_answered_pairs(files):
    (c,) = measured(files, FOUR, ann=[1, 2, None, None], ben=[None, 1, 0, None])["comparisons"]
    assert (c["pairs"], c["profiles"]) == (3, 2)


def test_command(files, project):
    known, paths = files(FOUR, ann=[1, 2, 0, 2], ben=[1, 1, 1, None])
    words = ["stages.tools.recompute", *map(str, paths), "--key", str(known), "--result", "people.json"]
    done = project._run(words, check=True)
    assert "preferred - rejected" in done.stdout and "0.79" in done.stdout and "not shown" in done.stdout
    assert json.loads((project.folder / "people.json").read_text())["raters"][1]["name"] == "ben"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"survey": "s2"}, ("survey s2", "--key")),
        ({"rater": "ann"}, ("answers of ann", "survey-ann.json")),
        ({"answers": {"p9": 1}}, ("pair p9",)),
        ({"answers": {"p0": 3}}, ("answer 3",)),
        ({"answers": {"p0": "1"}}, ("answers.p0",)),
        ({"answers": None}, ("not a file of answers",)),
    ],
)
def test_faults_are_one_line(files, project, change, parts):
    known, paths = files(FOUR, ann=[1], ben=[1])
    paths[1].write_text(json.dumps({**json.loads(paths[1].read_text()), **change}))
    done = project._run(["stages.tools.recompute", *map(str, paths), "--key", str(known)], check=False)
    complains(done, "survey-ben.json", *parts)


def test_scores_and_answers_are_not_mixed(files, project):
    known, paths = files(FOUR, ann=[1])
    words = ["stages.tools.recompute", "scores.csv", str(paths[0]), "--key", str(known)]
    complains(project._run(words, check=False), "a second file")
