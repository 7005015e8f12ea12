"""How good and how fast a trio is: fitting, benchmarks, random weights."""
