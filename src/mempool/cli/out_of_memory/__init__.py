"""The demo's main job: hash files while memory runs out for real: with fresh bytearrays, with a pool, with a queue of them.

    words.py     what the demo and its children tell each other
    files.py     which files, and their digests as hashlib sees them
    children.py  starts a child, hears what it tells                      (the demo's side)
    three.py     the three runs, one after the other                      (the demo's side)
    screen.py    shows it: a live screen, or plain lines
    report.py    the table, what its words mean, the verdict, the figures
    child.py     one run: sets the limit, starts the workers              (the child's side)
    hashing.py   what the workers do, and where they get their buffers
    memory.py    the limit, and the ballast that takes all that is left

Only `words` loads where there is no Linux.
"""
