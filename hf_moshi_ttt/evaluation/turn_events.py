"""The turn-taking events of dGSLM (Nguyen et al. 2022, arXiv 2203.16502) in two channels of voice activity.

| event     | what it is                                                                                       |
| --------- | ------------------------------------------------------------------------------------------------ |
| `ipu`     | inter-pausal unit: speech of one channel between silences of more than 200 ms in that channel     |
| `pause`   | silence of both channels between two units of one speaker                                         |
| `gap`     | silence of both channels between units of different speakers                                      |
| `overlap` | both channels at once                                                                             |

Silence before the first and after the last unit is none of them. All intervals are `[N, 2]` in seconds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .speech_times import joined, overlaps

IPU_SILENCE_SEC = 0.2
EVENTS = ("ipu", "pause", "gap", "overlap")


def inter_pausal_units(speech_N2: np.ndarray) -> np.ndarray:
    """Speech of one channel with its silences of up to 200 ms filled."""
    return joined(speech_N2, IPU_SILENCE_SEC)


def find_events(first_N2: np.ndarray, second_N2: np.ndarray) -> dict[str, np.ndarray]:
    """The intervals of each kind of event in two channels' speech."""
    units = [inter_pausal_units(first_N2), inter_pausal_units(second_N2)]
    every = np.concatenate(units)
    pauses, gaps = _silences(units)
    both = overlaps(*units)
    return {"ipu": every[np.argsort(every[:, 0], kind="stable")], "pause": pauses, "gap": gaps, "overlap": both}


def _silences(units: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pauses and gaps. A silence at whose border both speakers stop or start together is a pause."""
    spoken = joined(np.concatenate(units), 0.0)
    silences = np.stack([spoken[:-1, 1], spoken[1:, 0]], axis=1)
    before = [np.isin(silences[:, 0], one[:, 1]) for one in units]
    after = [np.isin(silences[:, 1], one[:, 0]) for one in units]
    is_pause = (before[0] & after[0]) | (before[1] & after[1])
    return silences[is_pause], silences[~is_pause]


def event_numbers(events: Sequence[dict[str, np.ndarray]], duration_sec: float) -> dict[str, Any]:
    """Of each event over all conversations: `<event>_per_min`, `<event>_sec_per_min`, `<event>_median_sec`, `_p90_sec`.

    Args:
        duration_sec: of all conversations together.

    Returns:
        A median or 90th percentile is absent where there is no such event.
    """
    numbers: dict[str, Any] = {}
    for kind in EVENTS:
        lengths = np.concatenate([one[kind][:, 1] - one[kind][:, 0] for one in events])
        numbers[f"{kind}_per_min"] = 60 * len(lengths) / duration_sec
        numbers[f"{kind}_sec_per_min"] = 60 * float(lengths.sum()) / duration_sec
        if len(lengths):
            numbers[f"{kind}_median_sec"] = float(np.median(lengths))
            numbers[f"{kind}_p90_sec"] = float(np.percentile(lengths, 90))
    return numbers
