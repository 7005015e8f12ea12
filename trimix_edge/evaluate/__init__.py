"""A trio on benchmarks: from files to scores, their intervals, and whether a difference is real.

    data (tasks)  ->  prompts  ->  predictions (run, results)  ->  scores  ->  report

tasks.py        which tasks there are, and what may be asked of them
data.py         which of them a folder holds, and what is skipped
milic.py        items out of MiLiC-Eval's JSON files
plain.py        items out of line-aligned texts and TSV
cells.py        items and exemplars to a cell, long texts cut
exemplars.py    which exemplars, in which order
prompts.py      items to prompts, by templates.toml or somebody else's wording
systems.py      what is compared: a setting of the fusion
plan.py         all that decides the predictions, and its fingerprint
run.py          the loop
results.py      a folder of results: resumed at any byte, never mixed
hosts.py        SAF-W's host, chosen on dev data
answers.py      what an output answers: letters and labels
numbers.py      numbers as people write them
paper.py        the judge of the paper's code
metrics.py      chrF++, ROUGE-L, accuracy, as sums over items
words.py        a tokenizer for ROUGE that knows more than Latin
bootstrap.py    intervals and the paired test
report.py       systems side by side
show.py         a report in Markdown
harness.py      an adapter for lm-evaluation-harness
"""
