from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from thriftune import geometry
from thriftune.report.material import load
from thriftune.report.reasons import certificate, neighbourhoods, percent, reasons, standing
from thriftune.study import Study


def test_percentages_never_claim_all_or_nothing_wrongly() -> None:
    assert percent(0) == "0\u00a0%"
    assert percent(1) == "100\u00a0%"
    assert percent(0.5) == "50\u00a0%"
    assert percent(0.9996) == "99.96\u00a0%"
    assert percent(0.0004, 1) == "0.04\u00a0%"


def test_standing_counts_what_is_above_and_below() -> None:
    assert standing(np.array([1.0, 2, 2, 5, np.nan]), 2.0) == (2, 0.25)


def test_score_strategies_tell_rank_and_share_below(full_study: Study) -> None:
    material = load(full_study)
    chosen = next(c for c in material.chosen if c.name == "uncertain")
    told = reasons(material, chosen, 3)
    column = material.scores["mean_entropy"]
    assert f"{column.max():.3g} nats, the highest of the {len(column)} prompts" in told[0]
    assert "2nd highest" in told[1]
    assert f"above {percent(float((column < column[chosen.rows[2]]).mean()), 1)} of them" in told[2]


def test_k_center_names_the_nearest_earlier_pick_and_its_distance(full_study: Study) -> None:
    material = load(full_study)
    chosen = next(c for c in material.chosen if c.name == "k_center")
    told = reasons(material, chosen, 9)
    x = geometry.transform(full_study.embeddings(), "centre_l2")
    ids = material.ids.tolist()
    earlier = [ids.index("p0005"), ids.index("p0061"), *chosen.rows[:4]]
    distances = cdist(x[chosen.rows[4:5]], x[earlier])[0]
    nearest = int(distances.argmin())
    assert f"({ids[earlier[nearest]]})" in told[4]
    assert f"at distance {distances[nearest]:.3g}." in told[4]


def test_k_center_starts_somewhere(make_study: Callable[..., Study], select: Callable[..., None]) -> None:
    study = make_study(n=20)
    select(study, "s", [4, 5], "k_center", params={"start": "mean"})
    material = load(study)
    assert "nearest the pool's centre" in reasons(material, material.chosen[0], 1)[0]


def test_facility_location_tells_the_share_of_the_gain(
    make_study: Callable[..., Study], select: Callable[..., None]
) -> None:
    study = make_study(n=20)
    select(study, "s", [4, 5], "facility_location", gains=np.array([9.0, 3.0]))
    material = load(study)
    told = reasons(material, material.chosen[0], 5)
    assert len(told) == 2
    assert "a gain of 9, 75.0\u00a0% of what all 2 picks add" in told[0]
    assert "a gain of 3, 25.0\u00a0%" in told[1]


@pytest.mark.parametrize(
    ("strategy", "params", "said"),
    [
        ("random", {}, "same chance"),
        ("random_within_task", {}, "within its task (sums)"),
        ("length_matched_random", {"reference": "other"}, "as long as those of selection 'other'"),
        ("top_k", {"score": "mean_nll"}, "mean negative log-likelihood"),
        ("someone_elses", {}, "thriftune strategies someone_elses"),
    ],
)
def test_other_strategies(
    make_study: Callable[..., Study], select: Callable[..., None], strategy: str, params: dict[str, str], said: str
) -> None:
    study = make_study(n=20)
    select(study, "s", [0], strategy, params=params)
    material = load(study)
    assert said in reasons(material, material.chosen[0], 1)[0]


def test_a_score_of_another_run_is_not_made_up(make_study: Callable[..., Study], select: Callable[..., None]) -> None:
    study = make_study(n=20)
    select(study, "s", [0], "mean_entropy", run="elsewhere")
    material = load(study)
    assert "--run elsewhere" in reasons(material, material.chosen[0], 1)[0]
    assert neighbourhoods(material, material.chosen[0], 1) == []


def test_neighbourhoods_agree_with_brute_force(full_study: Study) -> None:
    material = load(full_study)
    chosen = next(c for c in material.chosen if c.name == "k_center")
    x = geometry.transform(full_study.embeddings(), "centre_l2")
    distances = cdist(x, x[chosen.rows])
    nearest = distances.argmin(axis=1)
    found = neighbourhoods(material, chosen, 9)
    assert sum(n.count for n in found) == len(material)
    for position, neighbourhood in enumerate(found):
        members = np.flatnonzero(nearest == position)
        assert neighbourhood.count == len(members)
        assert not neighbourhood.sampled
        assert set(neighbourhood.examples) <= set(members) - {chosen.rows[position]}
        texts = [material.groups[e] for e in neighbourhood.examples]
        assert len(set(texts)) == len(texts)
        others = [m for m in members if material.groups[m] != material.groups[chosen.rows[position]]]
        if others:
            closest = min(distances[m, position] for m in others)
            assert distances[neighbourhood.examples[0], position] == pytest.approx(closest, abs=1e-6)


def test_certificates_in_words(make_study: Callable[..., Study], select: Callable[..., None]) -> None:
    study = make_study(n=20)
    ratio = {"kind": "facility_location", "value": 9.0, "upper_bound": 10.0, "ratio": 0.9, "on_graph": True}
    select(study, "a", [1, 2], certificate=ratio)
    select(study, "b", [1, 2], certificate={"kind": "k_center", "radius": 1.5, "lower_bound": 0.75})
    select(study, "c", [1, 2], certificate={"kind": "mine", "bound": 2.0})
    select(study, "d", [1, 2])
    told = {c.name: certificate(c) for c in load(study).chosen}
    assert "at least 90.0\u00a0% of what the best possible 2 picks" in told["a"]
    assert "holds everyone's nearest" in told["a"]
    assert "farther than 1.5 from a pick" in told["b"]
    assert "below 0.75" in told["b"]
    assert told["c"] == "kind: mine; bound: 2"
    assert told["d"] == ""
