"""The numbers are Prometheus', and two servers in one process do not share them."""

from prometheus_client.parser import text_string_to_metric_families

from hf_moshi_ttt.live.endings import ALL, FAST
from hf_moshi_ttt.live.metrics import LiveMetrics


def values(metrics: LiveMetrics) -> dict[str, float]:
    samples = [s for family in text_string_to_metric_families(metrics.text().decode()) for s in family.samples]
    return {s.name + "".join(f"[{value}]" for value in s.labels.values()): s.value for s in samples}


def test_what_is_counted() -> None:
    metrics, queue = LiveMetrics(), [3]
    metrics.gauge("queue", "Clients that wait.", lambda: len(queue))
    metrics.answered(0.01, False)
    metrics.answered(0.3, True)
    metrics.session_ended(FAST, 5)
    metrics.step_sec.observe(0.05)
    found = values(metrics)
    assert found["moshi_ttt_queue"] == 1 and found["moshi_ttt_late_frames_total"] == 1
    assert found["moshi_ttt_frame_latency_seconds_count"] == 2
    assert found["moshi_ttt_frame_latency_seconds_bucket[0.16]"] == 1
    assert found["moshi_ttt_sessions_ended_total[fast]"] == 1 and found["moshi_ttt_dropped_frames_total"] == 5
    assert found["moshi_ttt_step_seconds_count"] == 1
    assert sum(name.startswith("moshi_ttt_sessions_ended_total") for name in found) == len(ALL)
    assert values(LiveMetrics())["moshi_ttt_sessions_ended_total[fast]"] == 0
