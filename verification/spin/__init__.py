"""Models in Promela, searched whole by Spin: of resize, and of memory that several processes share.

kernel.pml   the kernel's order of steps: two counterexamples
ours.pml     ours: none, in two settings; and broken on purpose in five ways, each of which is caught
shared.pml   transactions of several processes without a lock, which are killed anywhere; and broken in six ways
shared_offers.pml  an element is passed on from process to process, each of which may be killed; broken in five ways
shared_reuse.pml   a dead process' number is used again under slow reapers; and broken in two ways
run.py       runs all and prints a table
"""
