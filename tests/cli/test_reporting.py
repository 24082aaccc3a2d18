"""What the report says of what was logged."""

import pytest

from worldline.cli import runs
from worldline.cli.reporting import write_training_report


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], ["Steps"]),
        (['{"step": 2, "loss": null}'], ["Steps", "no data"]),
        (['{"step": 2, "loss": 7.5, "steps_per_second": 2.0}', '{"step": 4, "loss": null}'], ["7.5", "2 steps/s"]),
        (['{"step": 2, "eval/return": 9.0}'], ["eval: return"]),
    ],
)
def test_a_report_of_whatever_was_logged(lines, words, finished_run, tmp_path):
    config = runs.read_config(finished_run / "config.yaml", runs.RunConfig)
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    text = write_training_report(tmp_path, config).read_text()
    assert [word for word in words if word not in text] == []
