"""The choice of runs for places, without a store."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from anvild.core.engine.queue import (
    Candidate,
    Demand,
    DriverSupply,
    FreeDevice,
    FreeSlot,
    Lane,
    can_make,
    choose,
    fits,
    fits_slot,
    lane_of,
    paged,
    why_not,
)
from anvild.sdk import DeviceRequest, Requirements

MAKE = {"maker": DeviceRequest(template="minimal", name="x", identity="x")}


def device(name: str, *capabilities: str, platform: str = "p", team: str | None = None, **values: object) -> FreeDevice:
    return FreeDevice(name, "finder", name, platform, frozenset(capabilities), team, 0, **values)  # type: ignore[arg-type]


def driver(name: str, *, slots: int = 0, blocked: str | None = None) -> DriverSupply:
    return DriverSupply(name, frozenset({"p"}), frozenset({"exec"}), slots, blocked)


def lane(team: str, numbers: list[int], *, priority: int = 0, demand: Demand | None = None) -> Lane:
    wanted = demand or Demand(None, Requirements())
    made = Lane(team, priority, wanted, iter([Candidate(n, f"run-{n}", 1, 0, wanted.requirements) for n in numbers]))
    made.advance()
    return made


def test_priority_before_fairness_before_age() -> None:
    lanes = [lane("a", [1, 2, 3]), lane("b", [4, 5]), lane("b", [9], priority=1)]
    picks = choose(lanes, [device(str(n)) for n in range(6)], [], {}, 100)
    assert [pick.candidate.number for pick in picks] == [9, 1, 2, 4, 3, 5]


def test_a_team_that_runs_much_waits() -> None:
    picks = choose([lane("a", [1, 2]), lane("b", [3, 4])], [device("x"), device("y")], [], {"a": 5, "b": 4}, 100)
    assert [pick.candidate.number for pick in picks] == [3, 1]


def test_the_least_capable_fitting_device_is_taken() -> None:
    demand = Demand(None, Requirements(capabilities=("exec",)))
    places = [device("rich", "exec", "power"), device("plain", "exec"), device("bare")]
    (pick,) = choose([lane("a", [1], demand=demand)], places, [], {}, 100)
    assert isinstance(pick.place, FreeDevice)
    assert pick.place.name == "plain"


def test_a_present_device_goes_before_a_slot() -> None:
    demand = Demand(None, Requirements(make=MAKE))
    slots = [FreeSlot(driver("maker", slots=2), 0), FreeSlot(driver("maker", slots=2), 1)]
    picks = choose([lane("a", [1, 2, 3, 4], demand=demand)], [device("x")], slots, {}, 100)
    assert [type(pick.place) for pick in picks] == [FreeDevice, FreeSlot, FreeSlot]


def test_who_fits_where() -> None:
    own = device("x", "exec", team="a")
    assert fits(Demand("x", Requirements()), "a", own)
    assert not fits(Demand("x", Requirements()), "b", own)
    assert not fits(Demand("y", Requirements()), "a", own)
    assert not fits(Demand(None, Requirements(platforms=("q",))), "a", own)
    assert not fits(Demand(None, Requirements(drivers=("other",))), "a", own)
    assert not fits(Demand(None, Requirements(capabilities=("power",))), "a", own)
    maker = driver("maker", slots=1)
    assert fits_slot(Demand(None, Requirements(make=MAKE, capabilities=("exec",))), maker, "a")
    assert not fits_slot(Demand("x", Requirements(make=MAKE)), maker, "a")
    assert not fits_slot(Demand(None, Requirements()), maker, "a")
    assert not fits_slot(Demand(None, Requirements(make=MAKE, platforms=("q",))), maker, "a")


def test_reasons_are_sentences() -> None:
    drivers = {"finder": driver("finder"), "maker": driver("maker", slots=1, blocked="no ground")}
    wish = Demand(None, Requirements())
    assert why_not(wish, "a", [device("x")], drivers) is None
    assert why_not(wish, "a", [device("x", quarantine="smoke")], drivers) == "the device 'x' is in quarantine: smoke"
    assert why_not(wish, "a", [device("x", status="offline")], drivers) == "the device 'x' is offline"
    assert why_not(wish, "a", [device("x", here=False)], {}) is None
    make = Demand(None, Requirements(make=MAKE, drivers=("maker",)))
    assert why_not(make, "a", [], drivers) == "the driver 'maker' is not ready: no ground"
    assert why_not(Demand("z", Requirements()), "a", [], drivers) == "the requested device is not in the lab any more"
    power = Demand("x", Requirements(capabilities=("power",)))
    assert why_not(power, "a", [device("x")], drivers) == "the requested device 'x' does not offer power"
    other = Demand(None, Requirements(drivers=("ghost",)))
    assert why_not(other, "a", [device("x")], drivers) == "no driver 'ghost' is loaded"
    assert why_not(wish, "a", [], {}) == "no device is attached to the lab and no driver makes one for this run"


def test_a_driver_that_lacks_the_template_is_passed_over() -> None:
    demand = Demand(None, Requirements(make={**MAKE, "other": MAKE["maker"]}))
    bare = msgspec.structs.replace(driver("maker", slots=1), lacks={"minimal": "build it first"})
    stocked = driver("other", slots=1)
    assert why_not(demand, "a", [], {"maker": bare}) == "the driver 'maker' cannot make 'minimal': build it first"
    assert why_not(demand, "a", [], {"maker": bare, "other": stocked}) is None
    (pick,) = choose([lane("a", [1, 2], demand=demand)], [], [FreeSlot(bare, 0), FreeSlot(stocked, 0)], {}, 100)
    assert pick.place == FreeSlot(stocked, 0)
    assert not can_make(demand, bare, "a")
    built = Demand(None, Requirements(make={"maker": msgspec.structs.replace(MAKE["maker"], template="built")}))
    assert can_make(built, bare, "a")
    assert lane_of("a", 0, built) != lane_of("a", 0, Demand(None, Requirements(make=MAKE)))


def test_lanes_hold_what_is_alike() -> None:
    one = lane_of("a", 0, Demand(None, Requirements(capabilities=("exec", "files"))))
    assert one == lane_of("a", 0, Demand(None, Requirements(capabilities=("files", "exec"))))
    assert len({one, lane_of("b", 0, Demand(None, Requirements())), lane_of("a", 1, Demand(None, Requirements()))}) == 3


def test_pages_are_read_when_needed() -> None:
    asked: list[int] = []

    def page(_: str, after: int) -> list[Candidate]:
        asked.append(after)
        return [Candidate(n, "", 1, 0, Requirements()) for n in range(after + 1, min(after + 3, 6))]

    walk = paged(page, "lane", Candidate(1, "", 1, 0, Requirements()))
    assert next(walk).number == 1
    assert asked == []
    assert [candidate.number for candidate in walk] == [2, 3, 4, 5]


@given(
    teams=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=30),
    places=st.integers(0, 12),
    limit=st.integers(0, 12),
)
def test_what_a_choice_always_is(teams: list[tuple[str, int]], places: int, limit: int) -> None:
    """No run and no place twice, nothing free while a run waits, and no team more than one ahead of a waiting one."""
    numbers: dict[tuple[str, int], list[int]] = {}
    for number, key in enumerate(teams, 1):
        numbers.setdefault(key, []).append(number)
    lanes = [lane(team, each, priority=priority) for (team, priority), each in numbers.items()]
    picks = choose(lanes, [device(f"{n:02}") for n in range(places)], [], {}, limit)
    assert len(picks) == min(len(teams), places, limit)
    assert len({pick.candidate.run_id for pick in picks}) == len(picks)
    assert len({pick.place.device_id for pick in picks if isinstance(pick.place, FreeDevice)}) == len(picks)
    taken = {pick.candidate.number for pick in picks}
    waiting = [(priority, team) for number, (team, priority) in enumerate(teams, 1) if number not in taken]
    if waiting and picks:
        assert min(teams[number - 1][1] for number in taken) >= max(priority for priority, _ in waiting) or limit == 0
    if {priority for _, priority in teams} == {0}:
        load = Counter(pick.team_id for pick in picks)
        for _, team in waiting:
            assert all(load[team] >= load[other] - 1 for other in "abc")
