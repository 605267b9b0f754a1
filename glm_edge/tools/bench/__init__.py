"""What `glm-edge bench` measures, and how: each subject in a process of its own, one at a time, in turn."""
