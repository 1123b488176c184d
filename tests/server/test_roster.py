"""A site answers under one name, and under nobody else's."""

from __future__ import annotations

from pathlib import Path

from server.events import ignore
from server.loop import Rounds
from server.roster import Roster, write_admitted
from server.run_folder import RunFolder
from simulations.grid import InProcessGrid
from tests import standin
from tests.server.test_loop import APP, config, run, same


def test_an_impostor_that_answers_first_is_refused_and_the_honest_site_counts(tmp_path: Path) -> None:
    """The coordinator knows who has which key: whoever is first, the name is the honest site's."""
    write_admitted(tmp_path / "nodes.json", {1001: "east", 1002: "site-1", 1003: "site-2"})
    sites = [{"behaviour": "copycat-1"}, {}, {}]  # node 1001 answers first, as "site-1"
    with RunFolder.create(tmp_path / "run", config(rounds=1)) as folder, InProcessGrid(APP, sites) as grid:
        final = Rounds(grid, folder, ignore, roster=Roster(tmp_path / "nodes.json")).run(standin.initial())
        (record,) = folder.rounds()
    same(final, standin.averaged(standin.initial(), 1, [1, 2]))
    told = [(line["site"], line.get("refused")) for line in record["train"]]
    assert told == [("east", "name-taken"), ("site-1", None), ("site-2", None)]
    assert "released" not in record["train"][0]


def test_a_name_stays_with_who_had_it(tmp_path: Path) -> None:
    """Where nobody admits sites: a node cannot take another's name in a later round, though it answers first."""
    sites: list[dict[str, object]] = [{"behaviour": "copycat-1", "from-round": 2}, {}, {}]
    _, rounds = run(tmp_path / "run", sites, config(rounds=2))
    told = [(line["site"], line.get("refused")) for line in rounds[1]["train"]]
    assert told == [("site-0", "name-taken"), ("site-1", None), ("site-2", None)]


def test_a_name_goes_over_when_its_node_is_gone_unless_it_was_admitted(tmp_path: Path) -> None:
    free, there = Roster(), {1, 2}
    assert free.takes(1, "north", lambda: there) and not free.takes(2, "north", lambda: there)
    assert free.takes(2, "north", lambda: {2}) and free.nodes() == {2: "north"}
    assert not free.takes(2, "south", lambda: {2})
    write_admitted(tmp_path / "nodes.json", {1: "north"})
    bound = Roster(tmp_path / "nodes.json")
    assert bound.name(1) == "north" and bound.name(2) is None
    assert not bound.takes(2, "north", lambda: {2}) and bound.takes(1, "north", lambda: {1})
    write_admitted(tmp_path / "nodes.json", {1: "north", 2: "south"})
    assert bound.takes(2, "south", lambda: {1, 2})
