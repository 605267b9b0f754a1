"""What install.sh runs out of our wheel, before anything is installed: it needs Python's own modules and no others."""
