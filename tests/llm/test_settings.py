"""Roles and prices. The flat section `roles` of params.yaml and its faults: tests/core/test_params.py."""

import pytest
from calls import PRICE, ROLE

from stages.llm.settings import Price, Roles, Speaker, Talker, role

SAMPLED = {"temp": 0.5, "top_p": 0.9, "penalty": 0.25, "tokens": 60}


def test_a_role_has_the_settings_of_its_speaker_and_what_the_stage_adds():
    made = role(Talker(model="scripted:tiny", history=4, **SAMPLED), "user", stop=("\n",))
    assert made == ROLE.model_copy(update={**SAMPLED, "stop": ("\n",)})
    assert role(Speaker(model="a:b", **SAMPLED), "judge", model="c:d").model == "c:d"


def test_the_flat_section_is_grouped_by_role():
    names = {"inducer": {}, "preferred": {"history": 1}, "rejected": {"history": 2}, "verifier": {}}
    flat = {f"{n}_{k}": v for n, more in names.items() for k, v in {"model": n, **SAMPLED, **more}.items()}
    roles = Roles.model_validate(flat)
    assert [getattr(roles, n).model for n in names] == list(names) and roles.rejected.history == 2
    with pytest.raises(ValueError, match="usr_model"):
        Roles.model_validate({**flat, "usr_model": "x"})


def test_cached_tokens_have_their_own_price_and_a_batch_is_half():
    assert PRICE.usd(10, 4, 3) == pytest.approx((6 * 1000 + 4 * 100 + 3 * 2000) / 1e6)
    assert Price(prompt=1.0, completion=2.0).usd(10, 4, 3) == pytest.approx((10 + 6) / 1e6)
    assert PRICE.batched().usd(10, 4, 3) == pytest.approx(PRICE.usd(10, 4, 3) / 2)
    assert Price(prompt=1.0, completion=2.0).batched().cached is None
