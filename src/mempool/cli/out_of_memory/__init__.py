"""The demo's main job: hash files while memory runs out for real, once without a pool and once with one.

    words.py     what the demo and its children tell each other
    files.py     which files, and their digests as hashlib sees them
    children.py  starts a child, hears what it tells                      (the demo's side)
    screen.py    shows it: a live screen, or plain lines
    report.py    the table, the audit, the verdict, the figures
    child.py     one run: sets the limit, starts the threads              (the child's side)
    hashing.py   what the threads do, without a pool and with one
    memory.py    the limit, and the ballast that takes all that is left

Only `words` loads where there is no Linux.
"""
