"""MT-Bench (Zheng et al., 2023, arXiv 2306.05685): 80 questions of two turns in eight categories, graded by a judge.

The files are FastChat's, in and out: questions, answers, the judge's prompts, reference answers, judgments. So answers
that others wrote can be judged and reported here, and FastChat reads ours; what it does not know stands beside. This is
how Nie et al. (2025, section 5) compare conditional generation: the judge's score against the seconds that it took.

    FOLDER/model_answer/MODEL_ID.jsonl        an answer a line
    FOLDER/model_judgment/JUDGE_single.jsonl  a judgment a line
"""
