"""What the converter quantizes by and with: recipes' rules, a search for better scales, and the pool of threads."""
