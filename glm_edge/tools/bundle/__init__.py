"""Everything that a machine without a network needs, in one folder: `glm-edge bundle`, and what installs from it.

`bundle.py` decides what is in it, `wheels.py` and `own_wheel.py` get the packages, `write.py` writes the folder or the
archive. `install/` runs on the other machine, out of our wheel and before anything is installed: it and what it imports
need Python alone. `files/` has the scripts and the README that a bundle begins with. `lock.py` is for contributors.
"""
