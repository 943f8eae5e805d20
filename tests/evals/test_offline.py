import subprocess
import sys

import pytest

from small_benchmarks import BOOLQ, PIQA, data_folder, write_lines
from unmask.errors import UsageError
from unmask.evals import task_names
from unmask.evals.offline import load_tasks, local_splits
from unmask.evals.task_names import leaf_tasks, require_known, task_files


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("hub"))


def test_the_harness_reads_local_files_with_its_own_task_definitions(data_dir):
    tasks, data = load_tasks(["piqa", "boolq", "lambada_openai"], data_dir)
    piqa, boolq, lambada = tasks
    assert [doc["goal"] for doc in piqa.eval_docs] == [row["goal"] for row in PIQA]
    assert piqa.doc_to_text(piqa.eval_docs[0]) == "Question: open box 0\nAnswer:"
    assert [doc["label"] for doc in boolq.eval_docs] == [row["label"] for row in BOOLQ]
    assert lambada.doc_to_target(lambada.eval_docs[0]) == " mat"
    assert {name: (each.dataset, each.split, each.documents) for name, each in data.items()} == {
        "piqa": ("baber/piqa", "validation", 6),
        "boolq": ("aps/super_glue/boolq", "validation", 5),
        "lambada_openai": ("EleutherAI/lambada_openai/default", "test", 5),
    }


def test_a_task_without_its_test_split_is_evaluated_on_validation(tmp_path):
    row = {"id": "1", "question_stem": "Ice is", "choices": {"text": ["cold", "hot"], "label": ["A", "B"]}}
    write_lines(tmp_path / "allenai/openbookqa/main/validation.jsonl", [row | {"answerKey": "A"}])
    _, data = load_tasks(["openbookqa"], tmp_path)
    assert (data["openbookqa"].split, data["openbookqa"].documents) == ("validation", 1)


def test_parquet_and_arrow_files_are_read(tmp_path):
    import datasets

    table = datasets.Dataset.from_list(PIQA)
    for ending in ("parquet", "arrow"):
        folder = tmp_path / ending / "baber/piqa"
        folder.mkdir(parents=True)
        if ending == "parquet":
            table.to_parquet(folder / "validation.parquet")
        else:
            table.save_to_disk(tmp_path / "saved")
            next((tmp_path / "saved").glob("*.arrow")).rename(folder / "validation.arrow")
        tasks, _ = load_tasks(["piqa"], tmp_path / ending)
        assert [doc["sol2"] for doc in tasks[0].eval_docs] == [row["sol2"] for row in PIQA]


def test_splits_of_several_formats_are_refused(tmp_path):
    write_lines(tmp_path / "a/b/test.jsonl", PIQA)
    (tmp_path / "a/b/validation.parquet").write_bytes(b"")
    with pytest.raises(UsageError, match="several formats"):
        local_splits(tmp_path, "a/b", None)


def test_tags_stand_for_their_tasks():
    assert "lambada_openai" in leaf_tasks(["lambada"])
    assert leaf_tasks(["ai2_arc"]) == ["arc_challenge", "arc_easy"]
    assert len(leaf_tasks(["mmlu"])) == 57
    assert leaf_tasks(["piqa", "boolq", "piqa"]) == ["piqa", "boolq"]


def test_an_unknown_task_gets_the_nearest_name(data_dir):
    with pytest.raises(UsageError, match="did you mean 'hellaswag'"):
        load_tasks(["helaswag"], data_dir)


def test_task_files_are_those_of_the_harness_s_own_index():
    index = task_names.task_index()
    files = task_files()
    assert all(index[name].yaml_path == path for name, path in files.items())
    tasks = {name for name, entry in index.items() if entry.kind.name in ("TASK", "PY_TASK")}
    assert len(tasks - files.keys()) < 20  # with signs in their names that others have not
    others = [name for name in index if name not in task_names.plain_names()]
    assert len(others) < 400
    require_known(others[::40])


def test_an_unknown_task_is_refused_without_torch_and_without_the_index():
    text = (
        "import sys; from unmask.evals import task_names; from unmask.errors import UsageError\n"
        "try: task_names.leaf_tasks(['piqa', 'lambada_opena'])\n"
        "except UsageError as error: print(error)\n"
        "assert not {'torch', 'lm_eval.tasks', 'datasets'} & sys.modules.keys()"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "unknown task 'lambada_opena': did you mean 'lambada_openai'" in found.stdout


def test_missing_files_are_named(data_dir, tmp_path):
    with pytest.raises(UsageError, match=r"task 'hellaswag': no validation.jsonl .* in .*Rowan/hellaswag"):
        load_tasks(["hellaswag"], data_dir)
    with pytest.raises(UsageError, match="no such directory"):
        load_tasks(["piqa"], tmp_path / "nowhere")
