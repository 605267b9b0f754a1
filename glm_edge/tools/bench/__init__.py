"""The benchmark behind `glm-edge bench`: each subject in a process of its own, one at a time, in turn."""
