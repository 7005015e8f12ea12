"""A trio and everything that runs it in one folder, for a computer without a network.

wheels.py      one wheel: what it is for, what it needs, its licence
wheelhouse.py  the wheels that a target needs, all of them, for each version of Python
trio.py        the trio's files, under names of our own
licences.py    whose work the bundle holds
writing.py     a folder or a tar file, whole or not at all
bundle.py      all of it together
resources/     what runs on the other computer: install.sh, check.py, start.sh
"""
