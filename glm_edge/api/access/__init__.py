"""Who may talk to the server: keys, hosts, origins."""
