"""Whatever interprets the bytes of a shared pool's file, under a fuzzer that is guided by coverage.

target.py     what is done with an input: a file made of its bytes, and calls that it chooses
seeds.py      inputs made of real files
driver.c      libFuzzer in Python's process, and a mutator that knows what words are
run.py        builds, runs, and tells how many inputs were tried
"""
