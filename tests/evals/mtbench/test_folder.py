"""The answers of a comparison, read from its folder."""

import json
from pathlib import Path

from unmask.evals.mtbench import answers
from unmask.evals.mtbench.questions import Question, QuestionSet


def test_settings_of_a_model_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "model_answer").mkdir()
    for name in ("mdm-128", "mdm-16", "arm", "mdm-8", "mdm-8-w0.5"):
        line = json.dumps({"question_id": 81, "choices": [{"turns": ["Yes."]}]})
        (tmp_path / "model_answer" / f"{name}.jsonl").write_text(line + "\n")
    questions = QuestionSet(Path("question.jsonl"), {81: Question(81, "writing", ("Is it?",))}, "none")
    found = answers.read_folder(tmp_path, questions)
    assert list(found) == ["arm", "mdm-8", "mdm-8-w0.5", "mdm-16", "mdm-128"]
