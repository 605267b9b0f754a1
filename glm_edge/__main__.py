"""`python -m glm_edge`, the same as `glm-edge`."""

from .cli import main

main()
