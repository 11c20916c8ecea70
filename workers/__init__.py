"""The worker's side: environments, and the loop that serves them to the manager."""
