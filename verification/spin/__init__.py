"""Models of resize in Promela, searched whole by Spin.

kernel.pml   the kernel's order of steps: two counterexamples
ours.pml     ours: none, in two settings; and broken on purpose in five ways, each of which is caught
run.py       runs all and prints a table
"""
