"""The results of a proof as Markdown: verdicts, then each rung's tables."""

from collections.abc import Sequence
from typing import Any

_WORDS = {True: "**passes**", False: "**fails**", None: "nothing can be said"}


def to_markdown(results: dict[str, Any]) -> str:
    """The page `proof.md`."""
    made = ", ".join(f"{name} {value}" for name, value in results["made_with"].items())
    machine = ", ".join(f"{name} {value}" for name, value in results["hardware"].items())
    seeds = _listed(results["seeds"])
    lines = [
        f"# {results['title']}",
        "",
        f"`{results['command']}`; seeds {seeds}; commit {results['commit']}; {made}; {machine}.",
        "",
        "Losses are nats, with their range over seeds. Gap closed is (static - arm) / (static - reference); the "
        "reference is full attention unless a rung says otherwise. Intervals are over seeds and recordings, and over "
        "recordings alone for arms of one seed. Where static - reference, the headroom, "
        f"is below {results['headroom_nats']} nats or not surely above 0, there is no gap to speak of.",
        "",
        *_verdict_table(results["rungs"]),
    ]
    return "\n".join([*lines, *(line for rung in results["rungs"] for line in _rung_lines(rung))])


def _verdict_table(rungs: Sequence[dict[str, Any]]) -> list[str]:
    rows = []
    for rung in rungs:
        if "not_run" in rung:
            rows.append([rung["name"], "", "", "", f"not run: {rung['not_run']}", ""])
        if rung.get("left_out"):
            rows.append([rung["name"], "", "", "", f"left out: {rung['left_out']}", ""])
        for verdict in rung.get("verdicts", []):
            where = f"{verdict['test']}, {_place_name(verdict['place'])}"
            rows.append(
                [rung["name"], where, verdict["arm"], verdict["rule"], verdict["found"], _WORDS[verdict["passes"]]]
            )
    return _table(["rung", "test", "arm", "rule", "found", "verdict"], rows)


def _rung_lines(rung: dict[str, Any]) -> list[str]:
    lines = [f"## {rung['name']}", "", rung["question"], ""]
    if "not_run" in rung:
        return [*lines, f"Not run: {rung['not_run']}.", ""]
    size, fair = rung["size"], rung["fairness"]
    order = "the same frames in the same order" if fair["same_frames_in_order"] else "**DIFFERENT FRAMES OR ORDER**"
    settings = ", ".join(f"{key} {value}" for key, value in size.items())
    lines += [f"Task {rung['task']}: {settings}. All arms of a seed saw {order}.", ""]
    if rung["reference"] != "full":
        lines += [f"Gaps are to `{rung['reference']}`.", ""]
    rows = [
        [arm, _listed(fact["seeds"]), f"{fact['train_frames']:,}", f"{fact['parameters']:,}",
         f"{fair['parameters_less_static'][arm]:+,}", f"{fact['cpu_sec']:.0f}"]
        for arm, fact in rung["arms"].items()
    ]  # fmt: skip
    heads = ["arm", "seeds", "frames of training", "parameters", "parameters less static's", "CPU s a run"]
    lines += _table(heads, rows)
    for name, test in rung["tests"].items():
        lines += [f"### {rung['name']}: {name}", ""]
        if test["ceiling"] != name:
            lines += [
                f"Gaps are to the loss of {rung['reference']} at {test['ceiling']}, the distance that it knows.",
                "",
            ]
        lines += _test_table(test)
    return lines


def _test_table(test: dict[str, Any]) -> list[str]:
    places, last = test["places"], test["last"]
    has_window = any("less_window" in found for found in places[last].values())
    compared = ["static", "window"] if has_window else ["static"]
    heads = ["arm", *(_place_name(place) for place in places)]
    heads += [f"{_place_name(last)} less {base}'s" for base in compared] + ["gap closed"]
    also_other = "other" in places and last != "other"
    heads += ["other frames less static's"] if also_other else []
    rows = []
    for arm, found in places[last].items():
        cells = [arm, *(_loss(places[place][arm]) for place in places)]
        cells += [_interval(found[f"less_{base}"]) for base in compared] + [_gap(found)]
        cells += [_interval(places["other"][arm]["less_static"])] if also_other else []
        rows.append(cells)
    return _table(heads, rows)


def _place_name(place: str) -> str:
    return {"other": "other frames", "hearings": "all hearings"}.get(place, f"hearing {place}")


def _loss(found: dict[str, Any]) -> str:
    spread = f" ({found['min']:.3f} to {found['max']:.3f})" if found["max"] > found["min"] else ""
    return f"{found['loss']:.3f}{spread}"


def _interval(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    ends = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    return f"{found['value']:+.3f}{ends}"


def _gap(found: dict[str, Any]) -> str:
    closed = found["gap_closed"]
    if closed is None:
        return "-" if found["headroom"] is None else f"no headroom ({_interval(found['headroom'])})"
    ends = "" if closed["low"] is None else f" [{100 * closed['low']:.0f}%, {100 * closed['high']:.0f}%]"
    return f"{100 * closed['value']:.0f}%{ends}"


def _listed(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
