"""The order of memory accesses of shared/protocol.h, and the header itself on AArch64.

explored.cpp   every order that C11 allows, searched by relacy; and weakened in five ways, each of which is noticed
processes.c    several processes that are killed and stopped: run here, and on an emulated AArch64 in both of its ways
run.py         runs all and prints a table
"""
