"""The demo checkpoint, as the package data of glm_edge.demo; README.md is its model card."""
