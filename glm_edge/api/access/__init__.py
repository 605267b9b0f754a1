"""Access: the API keys, and the policy for keys, hosts and origins."""
