"""The report is one page that needs nothing else and says all there is."""

import re
from pathlib import Path

from hf_moshi_ttt.evaluation.report import write_report
from hf_moshi_ttt.evaluation.results_plot import draw_pictures

from ..fixtures.results import example_results


def page(tmp_path: Path, **changes: object) -> str:
    results = example_results(**changes)
    write_report(results, draw_pictures(results, tmp_path), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,[A-Za-z0-9+/=]{1000,}">', text)) == 4
    assert not re.search(r'(src|href)="(?!data:)', text) and "<script" not in text


def test_numbers_verdicts_and_findings_are_there(tmp_path: Path) -> None:
    text, results = page(tmp_path), example_results()
    model = results["models"]["ttt"]
    for number in (model["librilight_loss_500"], model["librilight_slope"], *model["librilight_slope_interval"]):
        assert f"{number:.4f}" in text
    for paired in results["comparisons"].values():
        assert paired["verdict"] in text
    assert "8,000 frames are 10.7 minutes" in text and "largest difference is 1.0e-06 nats" in text
    assert "&lt;b&gt;Not&lt;/b&gt; quite. <b>Mend it.</b>" in text  # escaped
    assert "training_frames" in text and "book 2" in text


def test_what_nobody_reached_is_said(tmp_path: Path) -> None:
    models = example_results()["models"]
    del models["plain"]["librilight_loss_900"]
    assert page(tmp_path, models=models).count("not reached") == 1


def test_without_a_check_none_is_claimed(tmp_path: Path) -> None:
    models = example_results()["models"]
    for model in models.values():
        del model["run"]["block_check"]
    assert "read again one by one" not in page(tmp_path, models=models)


def test_without_baselines_there_are_no_verdicts(tmp_path: Path) -> None:
    assert "Verdicts" not in page(tmp_path, comparisons={})
