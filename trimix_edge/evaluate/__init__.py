"""A trio on benchmarks: from files to scores, their intervals, and whether a difference is real.

    data (tasks)  ->  prompts  ->  predictions (run, results)  ->  scores  ->  report

tasks.py        which tasks there are, and which of them a folder holds
milic.py        items out of MiLiC-Eval's JSON files
plain.py        items out of line-aligned texts and TSV
prompts.py      items to prompts, by templates.toml or somebody else's wording
systems.py      what is compared: a setting of the fusion
plan.py         all that decides the predictions, and its fingerprint
run.py          the loop
results.py      a folder of results: resumed at any byte, never mixed
answers.py      what an output answers
metrics.py      chrF++, ROUGE-L, accuracy, as sums over items
words.py        a tokenizer for ROUGE that knows more than Latin
bootstrap.py    intervals and the paired test
report.py       systems side by side
show.py         a report in Markdown
harness.py      an adapter for lm-evaluation-harness
"""
