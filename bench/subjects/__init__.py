"""The queues that ``python -m bench peers`` compares: of each its producer and its worker.

Every module here imports the standard library, `base` and the one library that it is about: each
subject runs in a process, and may run in an environment, of its own.
"""
