"""What this machine will do and what stands in its way: the checks of `glm-edge doctor`, a subject a file."""
