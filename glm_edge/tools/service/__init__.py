"""GLM Edge as a service of systemd: the unit file, and its way onto the machine and off it."""
